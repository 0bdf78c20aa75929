// Package tokenizer turns text into token ids and back, exactly as the published tokenizer.json of a model says.
//
// It reads tokenizer.json (byte-level BPE, SentencePiece-style BPE with byte fallback, Unigram, WordPiece, WordLevel with
// their normalizers, pre-tokenizers, post-processors and decoders) or the vocabulary inside a GGUF file, gives byte offsets
// into the original text, renders chats with the Jinja templates of the models and saves what it loaded. Ids, offsets and decoded text equal
// the Rust tokenizers library; a component that is not known is an error that names it, never a guess.
//
// [TrainBPE] learns a vocabulary from texts. The package is not for padding and truncation (the trainer does both), or for
// pairs of texts.
//
// The character classes that cut words are pinned to those of the Rust library (charclass.go says which are not), so that
// ids do not change with the Go toolchain.
//
// Start reading at [FromPretrained], then tokenizer.go (the pipeline), load.go (file to pipeline), bpe.go (the model).
package tokenizer
