package backend

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// HostMemory returns how many bytes of the host's memory are available to this process: what the machine has left, or, in
// a container, its control group.
func HostMemory() (bytes int64, ok bool) {
	bytes, ok = procMemory("/proc/meminfo", "MemAvailable:")
	if group, limited := groupMemory("/sys/fs/cgroup"); limited && (!ok || group < bytes) {
		return group, true
	}
	return bytes, ok
}

// pinnedLimit is the variable that bounds, in GB, how much of the host's memory XLA pins for GPUs; unset it is 64, whatever the
// host has. XLA takes it in pieces of doubling size, and a host that has no more to pin kills the process.
const pinnedLimit = "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"

// limitPinned keeps XLA from pinning more than four fifths of what the host has available, unless the user has set a limit.
func limitPinned() {
	if available, ok := HostMemory(); ok && os.Getenv(pinnedLimit) == "" {
		os.Setenv(pinnedLimit, strconv.FormatInt(max(1, available/5*4>>30), 10))
	}
}

// Pinnable is how many bytes of the host's memory may be in use for a GPU; the rest of what XLA may pin is lost between pieces.
func Pinnable() int64 {
	gb, _ := strconv.ParseInt(os.Getenv(pinnedLimit), 10, 64)
	return gb << 30 / 4 * 3
}

// groupMemory is what the limit of the control group at root (version 2, or 1) leaves; files that the kernel caches and would drop
// do not count.
func groupMemory(root string) (bytes int64, limited bool) {
	for _, v := range []struct{ limit, used, cached string }{
		{"memory.max", "memory.current", "inactive_file"},
		{"memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"},
	} {
		limit, ok := number(filepath.Join(root, v.limit))
		used, ok2 := number(filepath.Join(root, v.used))
		if !ok || !ok2 { // another version, or "max"
			continue
		}
		cached, _ := field(filepath.Join(root, filepath.Dir(v.limit), "memory.stat"), v.cached+" ")
		return max(0, limit-used+cached), true
	}
	return 0, false
}

func number(path string) (int64, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// procMemory reads a line such as "VmRSS:  123 kB" of a file under /proc.
func procMemory(path, name string) (int64, bool) {
	kb, ok := field(path, name)
	return kb << 10, ok
}

// field reads the number of the line that begins with name.
func field(path, name string) (int64, bool) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), name); found {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
