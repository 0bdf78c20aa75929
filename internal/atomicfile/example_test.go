package atomicfile_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/internal/atomicfile"
)

func ExampleWrite() {
	dir, err := os.MkdirTemp("", "atomicfile")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "trainer_state.json")

	if err := atomicfile.WriteBytes(path, []byte(`{"global_step": 1}`)); err != nil {
		fmt.Println(err)
		return
	}
	err = atomicfile.Write(path, func(w io.Writer) error {
		fmt.Fprint(w, `{"global_st`)
		return io.ErrUnexpectedEOF // a writer that breaks off
	})
	content, _ := os.ReadFile(path)
	fmt.Println(err != nil, string(content))
	// Output: true {"global_step": 1}
}

func ExampleReplaceDir() {
	dir, err := os.MkdirTemp("", "atomicfile")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	checkpoint := filepath.Join(dir, "checkpoint-10")

	err = atomicfile.ReplaceDir(checkpoint, func(tmp string) error {
		return os.WriteFile(filepath.Join(tmp, "adapter_config.json"), []byte("{}"), 0o666)
	})
	entries, _ := os.ReadDir(checkpoint)
	fmt.Println(err, entries[0].Name())
	// Output: <nil> adapter_config.json
}
