package measure

import (
	"testing"
	"time"

	"github.com/loris-ml/loris/internal/backend"
)

func TestProductRateIsPositiveAndThatOfWhatRan(t *testing.T) {
	d, err := backend.Open("go")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	rate, err := ProductRate(d, 64, 10*time.Millisecond)
	if err != nil || rate <= 0 || rate > 100 {
		t.Errorf("%g TFLOP/s, error %v", rate, err)
	}
}
