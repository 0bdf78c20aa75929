package backend

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// FreeMemory returns how many bytes can still be allocated: of the GPU as its driver tells, else of the host.
// ok is false where that cannot be found out.
func (d *Device) FreeMemory() (bytes int64, ok bool) {
	if d.Kind == CUDA {
		return d.driver("memory.free")
	}
	return hostMemory("/proc/meminfo", "MemAvailable:")
}

// MemoryInUse returns the bytes in use: of the whole GPU as its driver tells, else of this process. Asking the driver
// takes tens of milliseconds, so that its answer is good for some seconds.
func (d *Device) MemoryInUse() (bytes int64, ok bool) {
	if d.Kind != CUDA {
		return hostMemory("/proc/self/status", "VmRSS:")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.asked) > 5*time.Second {
		d.inUse, d.told = d.driver("memory.used")
		d.asked = time.Now()
	}
	return d.inUse, d.told
}

// driver asks nvidia-smi, which every driver installation has.
func (d *Device) driver(field string) (int64, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nvidia-smi", "--query-gpu="+field, "--format=csv,noheader,nounits",
		"--id="+strconv.Itoa(int(d.Num))).Output()
	if err != nil {
		return 0, false
	}
	mib, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	return mib << 20, err == nil
}

// hostMemory reads a line such as "VmRSS:  123 kB" of a file under /proc.
func hostMemory(path, field string) (int64, bool) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), field); found {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10, err == nil
		}
	}
	return 0, false
}
