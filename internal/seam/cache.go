package seam

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/loris-ml/loris/internal/atomicfile"
)

// CacheStats counts what a plugin's cache of compiled programs did.
type CacheStats struct {
	Loaded   int   // programs that were not compiled
	Compiled int   // programs that were, and are on disk now
	Err      error // the last thing that went wrong; the program was compiled all the same
}

// cache keeps serialized executables in a folder, one file each. Files may be deleted at any time.
type cache struct {
	mu    sync.Mutex
	dir   string // "": off
	stats CacheStats
}

// cacheMagic begins each file; a checksum and the executable follow.
const cacheMagic = "loris compiled program 1\n"

func (c *cache) setDir(dir string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dir = dir
}

func (c *cache) folder() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dir
}

func (c *cache) note(change func(*CacheStats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.stats)
}

// cacheKey names a program, compiled with these options for that hardware. The name of the program itself, which varies
// between runs, does not count.
func cacheKey(text string, options []byte, environment ...string) string {
	if head, rest, found := strings.Cut(text, "\n"); found && strings.HasPrefix(head, "module @") {
		_, attributes, _ := strings.Cut(head, " ")
		_, attributes, _ = strings.Cut(attributes, " ")
		text = attributes + "\n" + rest
	}
	h := sha256.New()
	for _, part := range append([]string{cacheMagic, text, string(options)}, environment...) {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func cacheFile(dir, key string) string { return filepath.Join(dir, key+".pjrt") }

// read returns the executable of that key, or nil. A damaged file counts as missing.
func (c *cache) read(dir, key string) []byte {
	path := cacheFile(dir, key)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	const n = len(cacheMagic) + sha256.Size
	if err == nil && (len(data) < n || string(data[:len(cacheMagic)]) != cacheMagic) {
		err = fmt.Errorf("%s: not a compiled program of this version", path)
	}
	if err == nil {
		if sum := sha256.Sum256(data[n:]); !bytes.Equal(sum[:], data[len(cacheMagic):n]) {
			err = fmt.Errorf("%s: the file is damaged", path)
		}
	}
	if err != nil {
		c.note(func(s *CacheStats) { s.Err = err })
		return nil
	}
	return data[n:]
}

// write keeps an executable.
func (c *cache) write(key string, executable []byte) {
	dir := c.folder()
	if dir == "" {
		return
	}
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		sum := sha256.Sum256(executable)
		err = atomicfile.Write(cacheFile(dir, key), func(w io.Writer) error {
			for _, part := range [][]byte{[]byte(cacheMagic), sum[:], executable} {
				if _, err := w.Write(part); err != nil {
					return err
				}
			}
			return nil
		})
	}
	c.note(func(s *CacheStats) {
		s.Compiled++
		if err != nil {
			s.Compiled--
			s.Err = err
		}
	})
}

// identity says which files a plugin's machine code depends on: the plugin's own, and NVIDIA's libraries beside it.
func identity(path string) string {
	files := []string{path}
	dirs := []string{filepath.Dir(path)}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		dirs = append(dirs, filepath.Dir(real))
	}
	for _, dir := range dirs {
		for _, pattern := range []string{"*/lib/*.so*", "../nvidia/*/lib/*.so*", "../../nvidia/*/lib/*.so*", "nvidia/*/lib/*.so*"} {
			found, _ := filepath.Glob(filepath.Join(dir, pattern))
			files = append(files, found...)
		}
	}
	var b strings.Builder
	for _, f := range slices.Compact(slices.Sorted(slices.Values(files))) {
		if info, err := os.Stat(f); err == nil {
			fmt.Fprintf(&b, "%s %d %d\n", filepath.Base(f), info.Size(), info.ModTime().UnixNano())
		}
	}
	return b.String()
}

// host says what the machine code of programs for the CPU depends on, and which NVIDIA driver runs.
var host = sync.OnceValue(func() string {
	var b strings.Builder
	if cpu, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		first, _, _ := strings.Cut(string(cpu), "\n\n") // the first processor
		for line := range strings.Lines(first) {
			switch key, _, _ := strings.Cut(line, "\t"); key {
			case "model name", "flags", "Features", "CPU part":
				b.WriteString(line)
			}
		}
	}
	if driver, err := os.ReadFile("/proc/driver/nvidia/version"); err == nil {
		b.Write(driver)
	}
	return b.String() + flags() // which plugins read once, too
})

// flags are XLA's: those in XLA_FLAGS, or in the file that it names.
func flags() string {
	text := os.Getenv("XLA_FLAGS")
	if file := strings.TrimSpace(text); file != "" && !strings.HasPrefix(file, "-") {
		if content, err := os.ReadFile(file); err == nil {
			return text + "\n" + string(content)
		}
	}
	return text
}
