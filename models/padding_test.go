package models

import (
	"encoding/json"
	"testing"
)

func TestPaddingIsTheConfigsID(t *testing.T) {
	for text, want := range map[string]int32{`{"pad_token_id": 0}`: 0, `{"pad_token_id": 7}`: 7, `{"pad_token_id": null}`: -1, `{}`: -1, `{"pad_token_id": -1}`: -1, `{"pad_token_id": "x"}`: -1} {
		var b beside
		if err := json.Unmarshal([]byte(text), &b.config); err != nil {
			t.Fatal(err)
		}
		got := int32(-1)
		if id := b.padding(); id != nil {
			got = *id
		}
		if got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}
