// Package tokenizer turns text into token ids and back, exactly as the published tokenizer.json of a model says.
//
// It reads tokenizer.json with every component of the Rust tokenizers library (BPE, Unigram, WordPiece and WordLevel; all
// normalizers, pre-tokenizers, post-processors and decoders) or the vocabulary inside a GGUF file. Ids, offsets and decoded
// text equal that library's; special tokens, options of a call and chats equal transformers'. A component that is not known
// is an [UnsupportedError] that names file, field and component, never a guess; so is BPE dropout, whose ids are random.
//
// # The API on one page
//
//	tok, err := tokenizer.FromPretrained(dir)        // tokenizer.json and what is beside it, or a .gguf file
//	ids, err := tok.Encode(text, true)               // true adds the post-processor's special tokens
//	e, err := tok.EncodeFull(text, true)             // offsets, type ids, masks, word ids: an Encoding
//	e, err := tok.EncodePair(text, pair, true)       // two texts in one Encoding
//	e, err := tok.EncodeInput(input, options)        // Text, Pair, Words, WordsPair with EncodeOptions
//	all, err := tok.EncodeBatch(ctx, inputs, options) // on all cores, padded to one length
//	text, err := tok.Decode(ids, true)               // true leaves special tokens out
//	texts, err := tok.DecodeBatch(ctx, ids, true)
//	stream := tok.NewDecodeStream(true)              // text as ids come: Step, then Flush
//	text, err := tok.ApplyChatTemplate(messages, chatOptions) // then Encode(text, false)
//	n, err := tok.AddTokens(tokens...)               // also AddSpecialTokens, SetSpecialToken, SetChatTemplate
//	err := tok.SavePretrained(dir)                   // as transformers reads it
//
// [EncodeOptions] holds what transformers' __call__ takes: [Truncation] (max_length, stride, strategy, side, with the parts
// cut off in Encoding.Overflowing) and [Padding] (to the longest or a length, side, multiple). [Tokenizer.NewTruncation] and
// [Tokenizer.NewPadding] fill in the tokenizer's own sides and pad token; [Tokenizer.FileOptions] are those that
// tokenizer.json holds. [Encoding.TokenAt], [Encoding.WordTokens] and [Encoding.WordBytes] go from text to tokens.
//
// Offsets are bytes of UTF-8, where Python's count characters. Text must be valid UTF-8: anything else is an error that says
// where. Decoding ids whose bytes are not UTF-8 gives U+FFFD as the library does, one for every maximal ill-formed part.
//
// A Tokenizer is safe for concurrent use, but for the calls that change it: AddTokens, AddSpecialTokens, SetSpecialToken,
// SetChatTemplate, SetTruncation and SetPadding must run alone. Its cache of words has a fixed size.
//
// [TrainBPE] learns a vocabulary from texts.
//
// The character classes that cut words are pinned to those of the Rust library (charclass.go says which are not), so that
// ids do not change with the Go toolchain.
//
// Start reading at [FromPretrained], then tokenizer.go (the pipeline), load.go (file to pipeline), bpe.go (the model),
// encode.go (options and batches).
package tokenizer
