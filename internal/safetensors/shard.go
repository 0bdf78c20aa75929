package safetensors

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/loris-ml/loris/internal/atomicfile"
)

// DefaultMaxShardBytes is the size of a shard that the Hugging Face Hub's library aims at, "5GB".
const DefaultMaxShardBytes = 5_000_000_000

var shardName = regexp.MustCompile(`^model-\d{5}-of-\d{5}\.safetensors$`)

// WriteSharded writes a model folder as transformers' save_pretrained does: model.safetensors if all tensors together have
// at most maxShardBytes (0: [DefaultMaxShardBytes]), else model-00001-of-0000N.safetensors and so on, with
// model.safetensors.index.json. Shards are filled in the order of tensors; one that is larger gets a shard of its own.
//
// dir is created if it is missing; other files in it stay. Weights of an earlier save are replaced only when all new ones
// are on the disk, and what is left of them is removed; there is no moment at which a loader would find a mixture.
// One tensor is held in memory at a time.
func WriteSharded(dir string, tensors []Source, maxShardBytes int64, metadata map[string]string) error {
	if maxShardBytes < 0 {
		return fmt.Errorf("write model folder %s: shards of at most %d bytes are impossible; give 0 for the default or a positive number", dir, maxShardBytes)
	}
	if maxShardBytes == 0 {
		maxShardBytes = DefaultMaxShardBytes
	}
	parts, err := planParts(tensors)
	if err != nil {
		return fmt.Errorf("write model folder %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("write model folder %s: %w", dir, err)
	}
	shards := splitShards(parts, maxShardBytes)
	if len(shards) > 1 {
		return writeShards(dir, shards, metadata)
	}
	if err := writeFile(filepath.Join(dir, SingleName), parts, metadata); err != nil {
		return err
	}
	return removeStale(dir, map[string]bool{SingleName: true})
}

// splitShards is split_torch_state_dict_into_shards of huggingface_hub.
func splitShards(parts []part, maxBytes int64) [][]part {
	var shards [][]part
	var current []part
	size := int64(0)
	for _, p := range parts {
		if p.size > maxBytes {
			shards = append(shards, []part{p})
			continue
		}
		if size+p.size > maxBytes {
			shards = append(shards, current)
			current, size = nil, 0
		}
		current = append(current, p)
		size += p.size
	}
	if len(current) > 0 {
		shards = append(shards, current)
	}
	return shards
}

// writeShards writes all shards into a hidden folder inside dir first, because the time until the last one is complete is long.
func writeShards(dir string, shards [][]part, metadata map[string]string) error {
	tmp, err := os.MkdirTemp(dir, ".model.tmp-*")
	if err != nil {
		return fmt.Errorf("write model folder %s: no temporary folder can be created in it: %w; make it writable or choose another", dir, err)
	}
	defer os.RemoveAll(tmp)
	names := make([]string, len(shards))
	for i, shard := range shards {
		names[i] = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		if err := writeFile(filepath.Join(tmp, names[i]), shard, metadata); err != nil {
			return fmt.Errorf("write model folder %s: %w", dir, err)
		}
	}
	index, err := indexText(shards, names)
	if err != nil {
		return fmt.Errorf("write model folder %s: %w", dir, err)
	}
	// From here to the new index, a crash leaves a folder without index, which no loader takes for a model.
	keep := map[string]bool{IndexName: true}
	for _, stale := range []string{IndexName, SingleName} {
		if err := remove(filepath.Join(dir, stale)); err != nil {
			return err
		}
	}
	for _, name := range names {
		keep[name] = true
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("write model folder %s: %w", dir, err)
		}
	}
	if err := atomicfile.WriteBytes(filepath.Join(dir, IndexName), index); err != nil {
		return err
	}
	return removeStale(dir, keep)
}

// indexText is json.dumps(index, indent=2, sort_keys=True) and a newline, as transformers writes it.
func indexText(shards [][]part, names []string) ([]byte, error) {
	type meta struct {
		TotalParameters int64 `json:"total_parameters"`
		TotalSize       int64 `json:"total_size"`
	}
	index := struct {
		Metadata  meta              `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}{WeightMap: map[string]string{}}
	for i, shard := range shards {
		for _, p := range shard {
			index.Metadata.TotalParameters += int64(Info{Shape: p.Shape}.Elements())
			index.Metadata.TotalSize += p.size
			index.WeightMap[p.Name] = names[i]
		}
	}
	text, err := json.Marshal(index, json.Deterministic(true), jsontext.WithIndent("  "))
	return append(text, '\n'), err
}

// removeStale removes the weights of an earlier save that are not in keep.
func removeStale(dir string, keep map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("write model folder %s: %w", dir, err)
	}
	for _, e := range entries {
		name := e.Name()
		if !keep[name] && !e.IsDir() && (name == SingleName || name == IndexName || shardName.MatchString(name)) {
			if err := remove(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the earlier weights: %w", err)
	}
	return nil
}
