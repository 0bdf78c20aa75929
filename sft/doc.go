// Package sft fine-tunes a language model on rows of text: trl.SFTTrainer for Go.
//
//	rows       package dataset: text, prompt and completion, conversations, tokenized ids
//	examples   token ids and labels, masked and truncated as TRL does           tokenize.go, dataset.go, tokencache.go
//	batches    fixed shapes with segments and next-token labels, packed or not  packing.go, batch.go
//	steps      micro-steps, optimizer step, learning rate                       trainer.go, schedule.go
//	output     log lines, evaluation, checkpoints that resume bit for bit       run.go, checkpoint.go
//	           (on a GPU within rounding: kernels add in any order)
//
// Names, defaults, log lines and files are those of TRL and transformers. It is not for devices and gradients, which a
// [Model] brings, nor for preference training. Start reading at [SFTConfig] and [SFTTrainer].
package sft
