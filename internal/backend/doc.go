// Package backend opens the GoMLX backends that Loris runs on and moves tensors to them.
//
// A backend string chooses: "" is the embedded pure-Go backend, "xla:cpu" and "xla:cuda" are XLA through a PJRT plugin
// found at PJRT_PLUGIN_LIBRARY_PATH (or given as an absolute path, "xla:/path/to/xla_cuda_plugin.so"), with options
// after commas as GoMLX spells them ("xla:cuda,tf32=false"). Nothing is ever downloaded.
//
// XLA needs cgo and is linked in only when the program is built with it; everything else builds without. Start reading
// at [Open].
package backend
