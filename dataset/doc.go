// Package dataset reads rows to train on and puts them together: datasets of Hugging Face for Go.
//
//	Load        a file, a folder, a pattern or a hub id: JSON, CSV, Parquet, Arrow, text    load.go, files.go
//	FromRows    rows in memory
//	FromSeq     any iter.Seq2[Row, error]
//
// A [Dataset] is a value: Map, Filter, SelectColumns, Shuffle, TrainTestSplit, Interleave and the other transformations
// return new ones and run when rows are asked for. One that was loaded with Options.Streaming, or made of a sequence, is
// gone through in constant memory; the others hold their rows.
//
// Files, splits, seeds and orders are those of datasets: what load_dataset finds in a folder or a hub repository is found
// here, and shuffle, train_test_split and interleave_datasets of one seed give the same rows in the same order. It is not for
// tokens: package sft makes them. Start reading at [Dataset] and [Load].
package dataset
