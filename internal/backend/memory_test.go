package backend

import "testing"

func TestTheDriverIsAskedForTheCardThatCUDASees(t *testing.T) {
	for _, x := range []struct {
		num              int
		options, visible string
		set              bool
		want             string
	}{
		{0, "", "", false, "0"},
		{1, "memory_fraction=0.92", "", false, "1"},
		{0, "", "3", true, "3"},
		{1, "", "3, 5", true, "5"},
		{0, "", "GPU-8f2a,1", true, "GPU-8f2a"},
		{2, "", "3,5", true, ""},
		{0, "", "", true, ""},
		{0, "tf32=false,visible_devices=2;1", "", false, "1"},
		{1, "visible_devices=2;1", "4,6,7", true, "7"},
		{1, "visible_devices=1;1", "", false, ""},
		{0, "visible_devices=x", "", false, ""},
		{2, "visible_devices=2;1", "", false, ""},
		{0, "visible_devices=9", "4,6", true, ""},
	} {
		if got := cardOf(x.num, x.options, x.visible, x.set); got != x.want {
			t.Errorf("device %d of %q, CUDA_VISIBLE_DEVICES %q (%v): %q, want %q", x.num, x.options, x.visible, x.set, got, x.want)
		}
	}
}
