// Package seam gives GoMLX's XLA backend what its public API lacks: kernels of one's own in a graph, executions that
// nobody waits for, donated inputs, compile options per program, copies to pinned host memory, device memory
// statistics, and compiled programs kept on disk.
//
// It opens a PJRT plugin itself and hands go-xla a copy of the plugin's table of functions in which a few entries lead
// here first. It has no graphs, no kernels and no numbers of its own: kernels live beside their plain-graph twins, which
// every backend that was not opened through the seam runs ([Available] tells).
//
// Start reading at [Open], then [Client], which is one of the backends that may be at work on a plugin at a time, [Call] and
// [Configure]. Tests watch a plugin, and let programs and uploads fail, by
// [Plugin.Watch].
//
// # What it relies on
//
//   - The PJRT C ABI (pjrt_c_api.h, the very file that go-xla has). Plugins of the same major version that are newer
//     pass everything else through; much older ones are refused.
//   - go-xla taking a table by pjrt.RegisterPreloadedPlugin, waiting for executions by PJRT_Event_Await, and compiling
//     StableHLO as text.
//   - The text form of a function: "func.func @name(%parameter: type, ...) -> type {", closed by a brace at the
//     function's own indentation. An operation travels as a placeholder function whose first parameter's name spells its
//     body, so the program text alone says everything; name and signature carry a checksum. A program that mentions a
//     placeholder in any other form is refused, so the placeholder itself is never run.
//   - For gradients, package customvjp, which overrides one exported VJP entry of GoMLX.
//
// [SelfTest] checks all of that on a backend; run it once after opening.
package seam
