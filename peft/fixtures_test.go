package peft

import (
	"encoding/json/v2"
	"os"
	"path/filepath"
	"testing"
)

// readFixture decodes a file of testdata, which PEFT made (testdata/make_fixtures.py).
func readFixture(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// targetFixture is what PEFT knows of an adapted module.
type targetFixture struct {
	R       int     `json:"r"`
	Alpha   float64 `json:"alpha"`
	Scaling float64 `json:"scaling"`
	AShape  []int   `json:"a_shape"`
	BShape  []int   `json:"b_shape"`
	ASum    float64 `json:"a_sum"`
	BSum    float64 `json:"b_sum"`
}

// matchingFixture is matching.json.
type matchingFixture struct {
	Defaults []struct {
		ModelType     string `json:"model_type"`
		TargetModules any    `json:"target_modules"`
	} `json:"defaults"`
	Rules []struct {
		Key               string `json:"key"`
		TargetModules     any    `json:"target_modules"`
		LayersToTransform any    `json:"layers_to_transform"`
		LayersPattern     any    `json:"layers_pattern"`
		ExcludeModules    any    `json:"exclude_modules"`
		ModulesToSave     any    `json:"modules_to_save"`
		Result            string `json:"result"`
	} `json:"rules"`
	PatternKeys []struct {
		Keys    []string       `json:"keys"`
		Results map[string]int `json:"results"` // module → index of the key, -1: none
	} `json:"pattern_keys"`
	MinimalSets []struct {
		Targets []string `json:"targets"`
		Others  []string `json:"others"`
		Result  []string `json:"result"`
	} `json:"minimal_sets"`
	Models []struct {
		ModelType string        `json:"model_type"`
		Modules   []moduleTuple `json:"modules"`
		Cases     []modelCase   `json:"cases"`
	} `json:"models"`
}

type moduleTuple Module

// UnmarshalJSON reads [path, in, out, is_head].
func (m *moduleTuple) UnmarshalJSON(data []byte) error {
	var row [4]any
	if err := json.Unmarshal(data, &row); err != nil {
		return err
	}
	*m = moduleTuple{Path: row[0].(string), In: int(row[1].(float64)), Out: int(row[2].(float64)), IsHead: row[3].(bool)}
	return nil
}

type modelCase struct {
	Config        LoraConfig               `json:"config"`
	Error         string                   `json:"error"`
	Warnings      []string                 `json:"warnings"`
	Targets       map[string]targetFixture `json:"targets"`
	TargetModules any                      `json:"target_modules"`
}

func readMatching(t *testing.T) matchingFixture {
	t.Helper()
	var f matchingFixture
	readFixture(t, "matching.json", &f)
	return f
}

// compactJSON makes values comparable.
func compactJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
