package jinja

import (
	"encoding/json"
	"testing"
)

// Renders of real templates over a conversation with tools, tool calls and answers.
func benchmarkTemplate(b *testing.B, name string) {
	c := readConversations(b, "testdata/trl.golden.json.gz")
	tmpl, err := Parse(name, c.Templates[name])
	if err != nil {
		b.Fatal(err)
	}
	for _, situation := range []string{"talk", "tool loop"} {
		if _, ok := c.Renders[name+"/"+situation]; !ok {
			b.Fatal("no conversation ", situation)
		}
		vars := map[string]any{}
		for _, raw := range []json.RawMessage{json.RawMessage(`{"tools": null, "documents": null}`), c.Special, c.Cases[situation]} {
			if err := json.Unmarshal(raw, &vars); err != nil {
				b.Fatal(err)
			}
		}
		if name == "llama3_1" && situation == "tool loop" { // the template takes one tool call in a turn
			call := vars["messages"].([]any)[1].(map[string]any)
			call["tool_calls"] = call["tool_calls"].([]any)[:1]
		}
		b.Run(situation, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r, err := tmpl.Render(vars, Options{Clock: clock})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(r.Text)))
			}
		})
	}
}

func BenchmarkRenderLlama31(b *testing.B) { benchmarkTemplate(b, "llama3_1") }

func BenchmarkRenderQwen3(b *testing.B) { benchmarkTemplate(b, "qwen3") }

func BenchmarkRenderGPTOSS(b *testing.B) { benchmarkTemplate(b, "gptoss") }

func BenchmarkParseQwen3(b *testing.B) {
	c := readConversations(b, "testdata/trl.golden.json.gz")
	for b.Loop() {
		if _, err := Parse("", c.Templates["qwen3"]); err != nil {
			b.Fatal(err)
		}
	}
}
