// Package fileerror has the error by which readers of weight files refuse what they are given.
package fileerror

// Error reports a file that cannot be read as what it is taken for: truncated, damaged, hostile, or of a kind that is not
// read. Err says what is wrong and what to do, and names the file.
type Error struct {
	Path string
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }
