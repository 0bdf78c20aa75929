// Package customvjp gives a region of a GoMLX graph a gradient of its own: several inputs, several outputs, and a
// function that computes the vector-Jacobian product of the whole region, in place of the one that autodiff would derive
// operation by operation. Kernels, recomputing backward passes and operations that GoMLX cannot differentiate stand on it.
//
// The outputs may also be values that an earlier program computed and saved: then nothing of the forward runs here, only
// its backward does.
//
// It is not for one-input identities (graph.IdentityWithCustomGradient does those) and knows first derivatives only.
//
// Start reading at [Apply], the only entry point.
package customvjp
