package jinja_test

import (
	"encoding/json"
	"fmt"
	"log"

	"github.com/loris-ml/loris/internal/jinja"
)

func ExampleTemplate_Render() {
	t, err := jinja.Parse("chat_template", `{% for m in messages %}
<|{{ m.role }}|>{% generation %}{{ m.content | trim }}{% endgeneration %}

{% endfor %}
{% if tools %}{{ tools | tojson }}{% endif %}`)
	if err != nil {
		log.Fatal(err)
	}
	r, err := t.Render(map[string]any{
		"messages": []any{map[string]any{"role": "user", "content": " Hi! "}},
		"tools":    json.RawMessage(`[{"name": "f", "args": {"z": 1, "a": 2.0}}]`),
	}, jinja.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Text)
	fmt.Println(r.Text[r.Generation[0][0]:r.Generation[0][1]])
	// Output:
	// <|user|>Hi!
	// [{"name": "f", "args": {"z": 1, "a": 2.0}}]
	// Hi!
}

func ExampleParse() {
	_, err := jinja.Parse("chat_template", "{{ messages[0] }}\n{% if x %}")
	fmt.Println(err)
	// Output: chat_template: line 2: TemplateSyntaxError: Unexpected end of template. Jinja was looking for the following tags: 'elif' or 'else' or 'endif'. The innermost block that needs to be closed is 'if'.
}

func ExampleFromJSON() {
	v, err := jinja.FromJSON([]byte(`{"z": 1, "a": 1.0}`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(v.(*jinja.Dict).Keys())
	// Output: [z a]
}
