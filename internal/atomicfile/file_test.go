package atomicfile

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestWriteCreatesAndReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.bin")
	for _, size := range []int{0, 1, writeBuffer - 1, writeBuffer, 3*writeBuffer + 7} {
		want := bytes.Repeat([]byte{byte(size), 7}, size)
		if err := WriteBytes(path, want); err != nil {
			t.Fatal(err)
		}
		if got := readFile(t, path); !bytes.Equal(got, want) {
			t.Fatalf("size %d: read back %d bytes, want %d equal ones", size, len(got), len(want))
		}
	}
	wantEntries(t, filepath.Dir(path), "a.bin")
}

func TestWriteFailureKeepsOldContentAndRemovesTemp(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.bin")
	if err := WriteBytes(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken source")
	err := Write(path, func(w io.Writer) error {
		if _, err := w.Write(make([]byte, 2*writeBuffer)); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v: want it to wrap %v and to name %s", err, broken, path)
	}
	if got := readFile(t, path); string(got) != "old" {
		t.Errorf("content %q, want the old one", got)
	}
	wantEntries(t, dir, "a.bin")
}

func TestWritePanicRemovesTemp(t *testing.T) {
	dir := t.TempDir()
	func() {
		defer func() { _ = recover() }()
		_ = Write(filepath.Join(dir, "a.bin"), func(io.Writer) error { panic("boom") })
		t.Error("the callback's panic was swallowed")
	}()
	wantEntries(t, dir)
}

func TestWriteErrorsNamePathAndRemedy(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := WriteBytes(file, nil); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, path string
		is         error
		says       []string
	}{
		{"missing folder", filepath.Join(dir, "no", "a.bin"), fs.ErrNotExist, []string{filepath.Join(dir, "no") + " does not exist; create it"}},
		{"file as folder", filepath.Join(file, "a.bin"), nil, []string{"check the folder " + file}},
		{"folder as file", dir, nil, []string{"is a folder; remove it or choose another"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			checkError(t, WriteBytes(c.path, []byte("x")), c.is, append(c.says, c.path)...)
		})
	}
	wantEntries(t, dir, "file")
}

func TestWriteToUnwritableFolderNamesIt(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a.bin")
	checkError(t, WriteBytes(path, nil), fs.ErrPermission, path, dir+" is not writable")
	dst := filepath.Join(dir, "checkpoint-1")
	err := ReplaceDir(dst, func(string) error { return nil })
	checkError(t, err, fs.ErrPermission, dst, dir+" is not writable")
}

func TestWriteKeepsPermissionsOfReplacedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteBytes(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
}

func TestWriteReplacesLinkAndLeavesItsTarget(t *testing.T) {
	dir := t.TempDir()
	blob, link := filepath.Join(dir, "blob"), filepath.Join(dir, "config.json")
	if err := WriteBytes(blob, []byte("cached")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(blob, link); err != nil {
		t.Skip(err)
	}
	if err := WriteBytes(link, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if a, b := readFile(t, blob), readFile(t, link); string(a) != "cached" || string(b) != "mine" {
		t.Errorf("blob %q, link %q", a, b)
	}
}

func TestWriteAllowsLongNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 250))
	if err := WriteBytes(path, []byte("x")); err != nil {
		t.Fatal(err)
	}
}

func TestConcurrentWritesLeaveOneWholeContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.bin")
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			if err := WriteBytes(path, bytes.Repeat([]byte{byte(i)}, 1000)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	got := readFile(t, path)
	if len(got) != 1000 || !bytes.Equal(got, bytes.Repeat(got[:1], 1000)) {
		t.Errorf("mixed content of %d bytes", len(got))
	}
	wantEntries(t, filepath.Dir(path), "a.bin")
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func wantEntries(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func checkError(t *testing.T, err, is error, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error %v is not %v", err, is)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not say %q", err, s)
		}
	}
	if strings.Contains(err.Error(), ".tmp-") {
		t.Errorf("error %q shows a temporary name", err)
	}
}
