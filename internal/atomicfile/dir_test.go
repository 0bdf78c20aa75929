package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fill returns a build function that writes a file and a nested file, both holding text.
func fill(text string) func(string) error {
	return func(tmp string) error {
		nested := filepath.Join(tmp, "nested")
		return errors.Join(
			os.Mkdir(nested, 0o777),
			os.WriteFile(filepath.Join(tmp, "a"), []byte(text), 0o666),
			os.WriteFile(filepath.Join(nested, "b"), []byte(text), 0o444),
		)
	}
}

func checkFilled(t *testing.T, dir, text string) {
	t.Helper()
	wantEntries(t, dir, "a", "nested")
	if a, b := readFile(t, filepath.Join(dir, "a")), readFile(t, filepath.Join(dir, "nested", "b")); string(a) != text || string(b) != text {
		t.Errorf("a %q, nested/b %q, want %q", a, b, text)
	}
}

func TestReplaceDirCreatesAndReplaces(t *testing.T) {
	parent := t.TempDir()
	dst := filepath.Join(parent, "checkpoint-1")
	for _, text := range []string{"first", "second"} {
		if err := ReplaceDir(dst, fill(text)); err != nil {
			t.Fatal(err)
		}
		checkFilled(t, dst, text)
		if err := os.WriteFile(filepath.Join(dst, "stray"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := ReplaceDir(dst+string(filepath.Separator), fill("third")); err != nil {
		t.Fatal(err)
	}
	checkFilled(t, dst, "third")
	wantEntries(t, parent, "checkpoint-1")
}

func TestMoveAsideReplacesFolder(t *testing.T) {
	parent := t.TempDir()
	tmp, dst := filepath.Join(parent, "tmp"), filepath.Join(parent, "dst")
	for path, text := range map[string]string{tmp: "new", dst: "old"} {
		if err := errors.Join(os.Mkdir(path, 0o777), fill(text)(path)); err != nil {
			t.Fatal(err)
		}
	}
	if err := moveAside(tmp, dst); err != nil {
		t.Fatal(err)
	}
	checkFilled(t, dst, "new")
	wantEntries(t, parent, "dst")
}

func TestMoveAsideRestoresOldFolderOnFailure(t *testing.T) {
	parent := t.TempDir()
	dst := filepath.Join(parent, "dst")
	if err := errors.Join(os.Mkdir(dst, 0o777), fill("old")(dst)); err != nil {
		t.Fatal(err)
	}
	if err := moveAside(filepath.Join(parent, "missing"), dst); err == nil {
		t.Fatal("no error")
	}
	checkFilled(t, dst, "old")
	wantEntries(t, parent, "dst")
}

func TestReplaceDirFailureKeepsOldFolder(t *testing.T) {
	parent := t.TempDir()
	dst := filepath.Join(parent, "checkpoint-1")
	if err := ReplaceDir(dst, fill("old")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken build")
	err := ReplaceDir(dst, func(tmp string) error { return errors.Join(fill("new")(tmp), broken) })
	checkError(t, err, broken, dst)
	checkFilled(t, dst, "old")

	func() {
		defer func() { _ = recover() }()
		_ = ReplaceDir(dst, func(string) error { panic("boom") })
		t.Error("the callback's panic was swallowed")
	}()
	checkFilled(t, dst, "old")
	wantEntries(t, parent, "checkpoint-1")
}

func TestReplaceDirErrorsNamePathAndRemedy(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := WriteBytes(file, nil); err != nil {
		t.Fatal(err)
	}
	cases := []struct{ name, dst, says string }{
		{"file in the way", file, "is a file; remove it or choose another"},
		{"missing parent", filepath.Join(dir, "no", "x"), filepath.Join(dir, "no") + " does not exist; create it"},
		{"file as parent", filepath.Join(file, "x"), "not a directory"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := ReplaceDir(c.dst, func(string) error { t.Error("build was called"); return nil })
			checkError(t, err, nil, c.dst, c.says)
		})
	}
	wantEntries(t, dir, "file")
}

func TestReplaceDirFollowsLink(t *testing.T) {
	parent := t.TempDir()
	real, link := filepath.Join(parent, "disk"), filepath.Join(parent, "out")
	if err := errors.Join(os.Mkdir(real, 0o777), fill("old")(real)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("disk", link); err != nil {
		t.Skip(err)
	}
	if err := ReplaceDir(link, fill("new")); err != nil {
		t.Fatal(err)
	}
	checkFilled(t, real, "new")
	if target, err := os.Readlink(link); err != nil || target != "disk" {
		t.Errorf("link points to %q (%v)", target, err)
	}
	wantEntries(t, parent, "disk", "out")
}

func TestTemporaryNamesAreHidden(t *testing.T) {
	parent := t.TempDir()
	err := ReplaceDir(filepath.Join(parent, "checkpoint-1"), func(tmp string) error {
		if filepath.Dir(tmp) != parent || !strings.HasPrefix(filepath.Base(tmp), ".checkpoint-1.tmp-") {
			t.Errorf("temporary folder %s, want a hidden one in %s", tmp, parent)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
