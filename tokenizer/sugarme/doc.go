// Package sugarme lets Loris use a tokenizer of github.com/sugarme/tokenizer: a [Tokenizer] goes wherever sft and models take
// one. It is for programs that have such an instance already, or need a model that only that library builds; package tokenizer
// is right more often and faster (see README.md for figures).
//
// That library panics on some files and texts, which becomes errors here, and is silently wrong on others. Where the files of the
// model are at hand, a tokenizer is therefore compared with package tokenizer before it is handed out. What cannot be caught are
// the library's calls of log.Fatal.
//
// The package is a module of its own, so that the library and the four modules that it needs stay out of the requirements of
// those who do without.
package sugarme
