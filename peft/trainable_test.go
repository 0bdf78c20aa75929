package peft

import "testing"

func TestTrainableParametersLineIsPEFTs(t *testing.T) {
	for _, c := range []struct {
		trainable, all int64
		want           string
	}{
		{294912, 125534208, "trainable params: 294,912 || all params: 125,534,208 || trainable%: 0.2349"}, // opt-125m, r 8
		{1856, 7824, "trainable params: 1,856 || all params: 7,824 || trainable%: 23.7219"},
		{9175040, 3221924864, "trainable params: 9,175,040 || all params: 3,221,924,864 || trainable%: 0.2848"},
		{999, 1000, "trainable params: 999 || all params: 1,000 || trainable%: 99.9000"},
		{0, 0, "trainable params: 0 || all params: 0 || trainable%: 0.0000"},
	} {
		if got := FormatTrainableParameters(c.trainable, c.all); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}
