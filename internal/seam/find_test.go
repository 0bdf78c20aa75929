package seam

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindLooksWhereGoXLADoes(t *testing.T) {
	root := t.TempDir()
	for _, file := range []string{
		"a/pjrt_c_api_cpu_v0.83.1_plugin.so", "a/pjrt_c_api_cpu_v0.90.0_plugin.so", "a/nvidia/pjrt_c_api_cuda_plugin.so",
		"d[1]/pjrt_c_api_cpu_v0.100.0_plugin.so", "d[1]/pjrt_c_api_cpu_v0.83.1_plugin.so", "d[1]/pjrt_c_api_cpux_plugin.so", "d[1]/pjrt_c_api_tpu.so",
		"b/pjrt_c_api_cpu_plugin.so", "b/pjrt-plugin-tpu.so", "b/pjrt_c_api_cuda_plugin.so", "c/pjrt_c_api_cpu_plugin.txt",
	} {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ folders, name, want string }{
		{"a:b", "cpu", "a/pjrt_c_api_cpu_v0.90.0_plugin.so"},
		{"d[1]", "cpu", "d[1]/pjrt_c_api_cpu_v0.100.0_plugin.so"},
		{"d[1]:b", "tpu", "b/pjrt-plugin-tpu.so"},
		{"b:a", "cpu", "b/pjrt_c_api_cpu_plugin.so"},
		{"a:b", "cuda", "a/nvidia/pjrt_c_api_cuda_plugin.so"},
		{"b:a", "cuda", "b/pjrt_c_api_cuda_plugin.so"},
		{"a:b", "tpu", "b/pjrt-plugin-tpu.so"},
	} {
		var folders []string
		for _, f := range strings.Split(c.folders, ":") {
			folders = append(folders, filepath.Join(root, f))
		}
		t.Setenv(pluginPaths, strings.Join(folders, ":")+":")
		if got, err := Find(c.name); got != filepath.Join(root, c.want) || err != nil {
			t.Errorf("%s in %s: got %s, error %v; want %s", c.name, c.folders, got, err, c.want)
		}
	}
	t.Setenv(pluginPaths, filepath.Join(root, "c"))
	for _, name := range []string{"cpu", "", "c*", "a/cpu"} {
		if got, err := Find(name); err == nil {
			t.Errorf("%q: found %s", name, got)
		}
	}
	t.Setenv(pluginPaths, "")
	if _, err := Find("cpu"); err == nil || !strings.Contains(err.Error(), pluginPaths) {
		t.Errorf("got error %v", err)
	}
}
