package nn_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/reference"
)

func TestTokensThatGoThroughTheMLPInPartsTrainTheSame(t *testing.T) {
	problems := []problem{
		{name: "one row", batch: 1, seq: 10, part: 4, packed: true, nested: true, ranks: all(4)},
		{name: "rows, dropout", batch: 3, seq: 7, part: 3, dropout: 0.3, bias: true, ranks: map[string]int{"q": 3, "up": 2, "gate": 5, "down": 4}},
		{name: "DoRA, shifts", batch: 1, seq: 6, part: 2, dora: true, shift: true, gelu: true, ranks: all(3)},
		{name: "no adapters on the MLP", batch: 2, seq: 5, part: 2, packed: true, ranks: map[string]int{"q": 2}},
	}
	reference.OnBackends(t, func(t *testing.T, spec string) {
		d, err := backend.Open(spec)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		forms, keeps := []nn.Form{nn.FormFused, nn.FormPlain}, []nn.Keep{nn.KeepNothing, nn.KeepSmall | nn.KeepResidual | nn.KeepAttention}
		if spec == "xla:cpu" { // takes seconds to compile each
			problems, forms, keeps = problems[:1], forms[:1], keeps[1:]
		}
		for _, p := range problems {
			p.dtype, p.hidden, p.features, p.heads, p.kvHeads = dtypes.Float32, 64, 128, 4, 2
			t.Run(p.name, func(t *testing.T) {
				s := p.make(t, d)
				for _, form := range forms {
					s.p.part = 0
					want := s.step(t, d, form, nn.KeepNothing)
					s.p.part = p.part
					for _, keep := range keeps {
						compare(t, fmt.Sprintf("form %d, keep %05b", form, keep), errorsOf(s.step(t, d, form, keep), want), slices.Repeat([]float64{2e-6}, len(want)))
					}
				}
			})
		}
	})
}
