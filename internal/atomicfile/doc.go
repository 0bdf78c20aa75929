// Package atomicfile writes files and folders that are either whole or not there.
//
// A reader of the final path sees the old content or the new content, never a part of it, and so does the next start
// after a crash or a power cut: content is built under a temporary name in the same folder, flushed to the disk (fsync),
// renamed into place, and the folder entry is flushed too. A failed write leaves the old content and no temporary.
//
// It is for everything Loris writes that someone may read later: adapters, model shards, checkpoints, reports.
// It is not for logs that grow line by line.
//
// Start at [Write] for a file and at [ReplaceDir] for a folder such as a checkpoint.
package atomicfile
