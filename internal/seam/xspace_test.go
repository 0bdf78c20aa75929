package seam

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// message joins fields: pairs of a number and a value, which is bytes, a string, a number, or another message.
func message(pairs ...any) (m []byte) {
	for i := 0; i < len(pairs); i += 2 {
		number := protowire.Number(pairs[i].(int))
		switch v := pairs[i+1].(type) {
		case int:
			m = protowire.AppendVarint(protowire.AppendTag(m, number, protowire.VarintType), uint64(v))
		case string:
			m = protowire.AppendString(protowire.AppendTag(m, number, protowire.BytesType), v)
		case []byte:
			m = protowire.AppendBytes(protowire.AppendTag(m, number, protowire.BytesType), v)
		}
	}
	return m
}

func TestExecutionsAreReadFromStreamsOfGPUs(t *testing.T) {
	name := func(id int, name string) []byte { return message(1, id, 2, message(1, id, 2, name)) }
	module, op := message(1, 9, 5, "jit_loris_norm(123)"), message(1, 8, 7, 7) // the second is interned
	gpu := message(
		2, "/device:GPU:0",
		3, message(2, "Stream #7(Compute)", 3, 1000, 4, message(1, 1, 2, 5_000_000, 3, 2_000_000, 4, module, 4, op), 4, message(1, 2, 2, 1_000_000, 3, 500_000)),
		3, message(2, "XLA Ops", 3, 1000, 4, message(1, 1, 2, 5_000_000, 3, 2_000_000)),
		4, name(1, "gemm"), 4, name(2, "MemcpyH2D"), 5, name(9, "hlo_module"), 5, name(8, "hlo_op"), 5, name(7, "dot.3"))
	host := message(2, "/host:CPU", 3, message(2, "Stream", 4, message(1, 1)))
	space := append(message(1, host, 1, gpu), 0) // as XLA hands it out
	got, err := executions(space)
	if err != nil {
		t.Fatal(err)
	}
	want := []Execution{
		{Name: "MemcpyH2D", Start: 2 * time.Microsecond, Duration: 500 * time.Nanosecond},
		{Program: "loris_norm", Name: "gemm", Op: "dot.3", Start: 6 * time.Microsecond, Duration: 2 * time.Microsecond},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := executions(space[:len(space)-9]); err == nil {
		t.Error("a truncated profile is no error")
	}
}
