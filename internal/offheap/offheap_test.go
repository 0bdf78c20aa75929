package offheap

import "testing"

func TestMemoryGrowsAndIsGivenBack(t *testing.T) {
	m, err := Alloc(100)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range m.Bytes() {
		if b != 0 {
			t.Fatalf("byte %d is %d, want 0", i, b)
		}
	}
	m.Bytes()[99] = 7
	if err := m.Resize(50); err != nil || len(m.Bytes()) != 100 || m.Bytes()[99] != 7 {
		t.Errorf("a smaller size changed the memory: %d bytes, %v", len(m.Bytes()), err)
	}
	if err := m.Resize(1 << 20); err != nil || len(m.Bytes()) != 1<<20 {
		t.Errorf("got %d bytes, %v", len(m.Bytes()), err)
	}
	m.Bytes()[1<<20-1] = 1
	for range 2 {
		if err := m.Free(); err != nil || m.Bytes() != nil {
			t.Errorf("freed: %d bytes, %v", len(m.Bytes()), err)
		}
	}
	if err := (*Memory)(nil).Free(); err != nil {
		t.Error(err)
	}
}

func TestImpossibleSizesAreErrors(t *testing.T) {
	if _, err := Alloc(1 << 60); err == nil {
		t.Error("an exabyte was given")
	}
}
