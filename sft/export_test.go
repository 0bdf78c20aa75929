package sft

// What the examples train, in place of a model and a tokenizer read from files.

func NewToyModel() Model { return newToyModel() }

var ToyTokenizer Tokenizer = toyTokenizer{}
