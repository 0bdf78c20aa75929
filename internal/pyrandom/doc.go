// Package pyrandom draws the numbers that NumPy and torch draw from the same seed, so that rows shuffled, split, mixed or
// visited here come in the order in which datasets, trl and transformers have them.
//
//	NumPy   numpy.random.default_rng(seed): SeedSequence, PCG64; permutation, random, choice
//	RandPerm  torch.randperm(n) on the CPU: MT19937
//
// The algorithms are fixed by their definitions: a change of the Go release does not change a stream.
package pyrandom
