package peft

import (
	"fmt"
	"strconv"
)

// FormatTrainableParameters returns the line that PEFT's print_trainable_parameters prints, without a newline:
//
//	trainable params: 294,912 || all params: 125,534,208 || trainable%: 0.2349
//
// all includes the trainable ones; for 4-bit weights, count the parameters, not their bytes.
func FormatTrainableParameters(trainable, all int64) string {
	percent := 0.0
	if all != 0 {
		percent = 100 * float64(trainable) / float64(all)
	}
	return fmt.Sprintf("trainable params: %s || all params: %s || trainable%%: %.4f", thousands(trainable), thousands(all), percent)
}

// thousands groups the digits of n by commas.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	first := 0
	if n < 0 {
		first = 1
	}
	for i := len(s) - 3; i > first; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
