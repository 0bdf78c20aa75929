package backend

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/loris-ml/loris/internal/seam"
)

// FreeMemory returns how many bytes can still be allocated on the device: what its allocator is allowed and the driver
// has. Host backends tell what the machine has available. With a MemoryLimit it is at most what that leaves. ok is false
// where nothing can be found out.
func (d *Device) FreeMemory() (bytes int64, ok bool) {
	free, ok := d.allocatable()
	if d.MemoryLimit <= 0 {
		return free, ok
	}
	inUse, told := d.MemoryInUse()
	left := max(0, d.MemoryLimit-inUse)
	switch {
	case !told:
		return free, ok
	case !ok:
		return left, true
	}
	return min(free, left), true
}

func (d *Device) allocatable() (bytes int64, ok bool) {
	if d.Kind != CUDA {
		return HostMemory()
	}
	free, ok := d.driver("memory.free")
	m, told := d.allocator()
	if !told || m.Limit <= 0 {
		return free, ok
	}
	if !ok {
		return m.Limit - m.InUse, true
	}
	if m.Pool > m.InUse { // what the allocator has taken and does not use
		free += m.Pool - m.InUse
	}
	return min(free, m.Limit-m.InUse), true
}

// allocator asks the seam for what the device's allocator says.
func (d *Device) allocator() (m seam.MemoryStats, ok bool) {
	p, ok := seam.Of(d.Backend)
	if !ok {
		return m, false
	}
	m, err := p.Memory(int(d.Num))
	return m, err == nil
}

// MemoryInUse returns the bytes in use: of the device as XLA's allocator tells, else of the whole GPU as its driver tells,
// else of this process.
func (d *Device) MemoryInUse() (bytes int64, ok bool) {
	if d.Kind != CUDA {
		return procMemory("/proc/self/status", "VmRSS:")
	}
	if m, told := d.allocator(); told {
		return m.InUse, true
	}
	return d.DriverMemory()
}

// DriverMemory returns the bytes of the whole GPU that its driver counts as used. Asking takes tens of milliseconds, so
// that an answer is good for some seconds.
func (d *Device) DriverMemory() (bytes int64, ok bool) {
	if d.Kind != CUDA {
		return 0, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.asked) > 5*time.Second {
		d.inUse, d.told = d.driver("memory.used")
		d.asked = time.Now()
	}
	return d.inUse, d.told
}

// PeakMemory returns the most bytes that were in use on the device since it was opened, where that is known.
func (d *Device) PeakMemory() (bytes int64, ok bool) {
	m, ok := d.allocator()
	return m.Peak, ok && m.Peak >= 0
}

// OutOfMemory reports whether err says that the device, or the host that stands for one, had no memory left: PJRT's code
// RESOURCE_EXHAUSTED, which go-xla passes on as text only.
func OutOfMemory(err error) bool {
	if err == nil {
		return false
	}
	text := strings.ToLower(err.Error())
	for _, mark := range []string{"pjrt error (code=8)", "resource_exhausted", "out of memory"} {
		if strings.Contains(text, mark) {
			return true
		}
	}
	return false
}

// driver asks nvidia-smi, which every driver installation has.
func (d *Device) driver(field string) (int64, bool) {
	visible, set := os.LookupEnv("CUDA_VISIBLE_DEVICES")
	card := cardOf(int(d.Num), d.options, visible, set)
	if card == "" {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nvidia-smi", "--query-gpu="+field, "--format=csv,noheader,nounits", "--id="+card).Output()
	if err != nil {
		return 0, false
	}
	mib, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	return mib << 20, err == nil
}

// cardOf is what nvidia-smi calls device num of a backend with these options in a process with this CUDA_VISIBLE_DEVICES, of
// neither of which it knows; "" where that cannot be said. XLA takes visible_devices in ascending order. Numbers are equal where
// CUDA_DEVICE_ORDER is PCI_BUS_ID or all cards are of one kind.
func cardOf(num int, options, visible string, set bool) string {
	for option := range strings.SplitSeq(options, ",") {
		list, ok := strings.CutPrefix(option, "visible_devices=")
		if !ok {
			continue
		}
		var ids []int
		for id := range strings.SplitSeq(list, ";") {
			n, err := strconv.Atoi(strings.TrimSpace(id))
			if err != nil {
				return ""
			}
			ids = append(ids, n)
		}
		slices.Sort(ids)
		if ids = slices.Compact(ids); num >= len(ids) {
			return ""
		}
		num = ids[num]
	}
	if !set {
		return strconv.Itoa(num)
	}
	if cards := strings.Split(visible, ","); num >= 0 && num < len(cards) {
		return strings.TrimSpace(cards[num])
	}
	return ""
}
