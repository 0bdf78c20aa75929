package safetensors

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The names that transformers gives the files of a model folder.
const (
	SingleName = "model.safetensors"
	IndexName  = "model.safetensors.index.json"
)

// Set is an open model folder: one file or several shards, read as one. Its methods may be called from several goroutines.
type Set struct {
	dir    string
	files  []*File
	names  []string
	byName map[string]*File
}

// OpenDir opens model.safetensors in dir or, where there is none, the shards of model.safetensors.index.json.
//
// The headers of all shards are read and checked at once, so that a missing or truncated shard is an error before
// anything is loaded; so is a tensor that the index promises and its shard lacks. Tensors that a shard holds beyond the
// index are there too, as transformers has it. Tensor data stay on the disk.
func OpenDir(dir string) (*Set, error) {
	single := filepath.Join(dir, SingleName)
	if _, err := os.Stat(single); err == nil {
		f, err := Open(single)
		if err != nil {
			return nil, err
		}
		return newSet(dir, []*File{f}, nil)
	}
	path := filepath.Join(dir, IndexName)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, noWeightsError(dir, err)
	}
	index, err := parseIndex(text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	files, err := openShards(dir, index)
	if err != nil {
		return nil, err
	}
	return newSet(dir, files, index)
}

// parseIndex returns weight_map: tensor name → shard file name.
func parseIndex(text []byte) (map[string]string, error) {
	var index map[string]string
	err := decodeObject(text, func(name string, value jsontext.Value) error {
		if name != "weight_map" {
			return nil
		}
		if err := json.Unmarshal(value, &index); err != nil {
			return fmt.Errorf("weight_map must map tensor names to shard files: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(index) == 0 {
		return nil, errors.New("weight_map is missing or empty; it must map tensor names to shard files")
	}
	for tensor, shard := range index {
		if shard == "." || !filepath.IsLocal(shard) {
			return nil, fmt.Errorf("weight_map: tensor %q is in %q, which is no file inside the folder", tensor, shard)
		}
	}
	return index, nil
}

// openShards opens every shard that the index names, in the order of their names. All that are missing are named at once.
func openShards(dir string, index map[string]string) (files []*File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	shards := slices.Compact(slices.Sorted(maps.Values(index)))
	var missing []string
	for _, shard := range shards {
		if _, err := os.Stat(filepath.Join(dir, shard)); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, shard)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("model folder %s lacks %d of the %d shards that %s names: %s; download them too",
			dir, len(missing), len(shards), IndexName, strings.Join(missing, ", "))
	}
	for _, shard := range shards {
		f, err := Open(filepath.Join(dir, shard))
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

// newSet joins files; it closes them if they do not fit the index or each other.
func newSet(dir string, files []*File, index map[string]string) (_ *Set, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	s := &Set{dir: dir, files: files, byName: map[string]*File{}}
	byPath := map[string]*File{}
	for _, f := range files {
		byPath[f.path] = f
	}
	for _, tensor := range slices.Sorted(maps.Keys(index)) {
		f := byPath[filepath.Join(dir, index[tensor])]
		if _, ok := f.Info(tensor); !ok {
			return nil, fmt.Errorf("model folder %s: %s says that tensor %q is in %s, but it is not; index and shards are of different saves: download both again",
				dir, IndexName, tensor, index[tensor])
		}
		s.byName[tensor] = f
	}
	for _, f := range files {
		for _, name := range f.Names() {
			owner, ok := s.byName[name]
			if _, listed := index[name]; ok && owner != f && !listed {
				return nil, fmt.Errorf("model folder %s: tensor %q is in %s and in %s, and %s does not say which holds", dir, name,
					filepath.Base(owner.path), filepath.Base(f.path), IndexName)
			}
			if !ok {
				s.byName[name] = f
			}
			if s.byName[name] == f {
				s.names = append(s.names, name)
			}
		}
	}
	return s, nil
}

// noWeightsError says what lies in dir, or at dir, in place of safetensors files; cause came from reading the index.
func noWeightsError(dir string, cause error) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("open model folder: %w", err)
	case !info.IsDir():
		return fmt.Errorf("open model folder %s: it is a file; give the folder that holds %s", dir, SingleName)
	case !errors.Is(cause, fs.ErrNotExist):
		return fmt.Errorf("open model folder %s: %w", dir, cause)
	}
	remedy := "download the weights into it"
	for _, pattern := range []string{"pytorch_model*.bin", "*.pth", "*.gguf"} {
		if found, _ := filepath.Glob(filepath.Join(dir, pattern)); len(found) > 0 {
			remedy = fmt.Sprintf("it has %s, which is of another format: convert it, or give a folder with safetensors", filepath.Base(found[0]))
			break
		}
	}
	return fmt.Errorf("model folder %s has neither %s nor %s (%w); %s", dir, SingleName, IndexName, cause, remedy)
}

// Dir returns the folder that the set was opened with.
func (s *Set) Dir() string { return s.dir }

// Names returns the names of all tensors: shard by shard, in the order of their data.
func (s *Set) Names() []string { return slices.Clone(s.names) }

// Info returns the description of a tensor, false where no file has one of that name.
func (s *Set) Info(name string) (Info, bool) {
	f, ok := s.byName[name]
	if !ok {
		return Info{}, false
	}
	return f.Info(name)
}

// Metadata returns the __metadata__ of all files; where two differ in a key, that of the first file.
func (s *Set) Metadata() map[string]string {
	var all map[string]string
	for _, f := range slices.Backward(s.files) {
		if all == nil {
			all = f.Metadata()
			continue
		}
		maps.Copy(all, f.header.metadata)
	}
	return all
}

// Read returns the stored bytes of a tensor; see [File.Read].
func (s *Set) Read(name string) ([]byte, error) {
	f, err := s.find(name)
	if err != nil {
		return nil, err
	}
	return f.Read(name)
}

// ReadRange returns n stored bytes of a tensor from byteOffset on; see [File.ReadRange].
func (s *Set) ReadRange(name string, byteOffset, n int64) ([]byte, error) {
	f, err := s.find(name)
	if err != nil {
		return nil, err
	}
	return f.ReadRange(name, byteOffset, n)
}

// ReadInto fills dst with the stored bytes of a tensor from byteOffset on; see [File.ReadInto].
func (s *Set) ReadInto(dst []byte, name string, byteOffset int64) error {
	f, err := s.find(name)
	if err != nil {
		return err
	}
	return f.ReadInto(dst, name, byteOffset)
}

// Float32 returns the elements of a float tensor as float32; see [File.Float32].
func (s *Set) Float32(name string) ([]float32, error) {
	f, err := s.find(name)
	if err != nil {
		return nil, err
	}
	return f.Float32(name)
}

// ReadFloat32 fills dst with elements of a float tensor; see [File.ReadFloat32].
func (s *Set) ReadFloat32(dst []float32, name string, at int) error {
	f, err := s.find(name)
	if err != nil {
		return err
	}
	return f.ReadFloat32(dst, name, at)
}

func (s *Set) find(name string) (*File, error) {
	f, ok := s.byName[name]
	if !ok {
		return nil, fmt.Errorf("model folder %s has no tensor %q", s.dir, name)
	}
	return f, nil
}

// Close closes all files.
func (s *Set) Close() error { return closeAll(s.files) }

func closeAll(files []*File) error {
	var all error
	for _, f := range files {
		all = errors.Join(all, f.Close())
	}
	return all
}
