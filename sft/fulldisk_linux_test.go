// The race detector has nothing to see in processes that crash, and makes them slow.
//go:build !race

package sft_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/loris-ml/loris/sft"
)

// ownMounts is set in a process that may mount without anybody else seeing it.
const ownMounts = "LORIS_TEST_OWN_MOUNTS"

// TestFullDiskLeavesTheLastCheckpointUsable lets the disk be full at every other page that a run writes. It runs itself again in
// namespaces of its own, where it mounts a small disk.
func TestFullDiskLeavesTheLastCheckpointUsable(t *testing.T) {
	if os.Getenv(ownMounts) != "" {
		fillDisk(t)
		return
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=120s"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	p := exec.Command(os.Args[0], args...)
	p.Env = append(os.Environ(), ownMounts+"=1")
	p.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := p.CombinedOutput()
	if len(out) == 0 && err != nil {
		t.Skipf("the system gives no namespaces: %v", err)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("%s", out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func fillDisk(t *testing.T) {
	_, rows, evalRows := readCurves(t)
	disk := t.TempDir()
	if err := syscall.Mount("none", disk, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	resize := func(bytes uint64) {
		t.Helper()
		if err := syscall.Mount("none", disk, "tmpfs", syscall.MS_REMOUNT, fmt.Sprint("size=", bytes)); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(disk, "out")
	run := func(steps int) error {
		c := crashConfig(dir, evalRows)
		c.MaxSteps, c.LRSchedulerType = steps, sft.Constant
		_, err := train(t, t.Context(), "", rows, c)
		return err
	}
	if err := run(4); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(t.TempDir(), "first")
	if err := os.CopyFS(first, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := run(6); err != nil {
		t.Fatal(err)
	}
	want := adapterIn(t, filepath.Join(dir, "checkpoint-6"))
	stride := uint64(2)
	if testing.Short() {
		stride = 5
	}
	full := 0
	for pages := uint64(0); ; pages += stride {
		if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(first))); err != nil {
			t.Fatal(err)
		}
		var s syscall.Statfs_t
		if err := syscall.Statfs(disk, &s); err != nil {
			t.Fatal(err)
		}
		resize((s.Blocks - s.Bfree + pages) * uint64(s.Bsize))
		err := run(6)
		resize(64 << 20)
		if err != nil {
			full++
			if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%d pages free: error %v", pages, err)
			}
			if err := run(6); err != nil {
				t.Errorf("%d pages free: resume: %v", pages, err)
			}
		}
		if !bytes.Equal(adapterIn(t, filepath.Join(dir, "checkpoint-6")), want) {
			t.Errorf("%d pages free: the adapter differs", pages)
		}
		if err == nil {
			break
		}
	}
	if full < 3 {
		t.Errorf("the disk was full %d times", full)
	}
	t.Logf("the disk was full at %d places", full)
}
