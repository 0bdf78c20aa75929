package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/format"
)

// logical returns a column's annotation, nil for none.
func logical(c *parquet.Column) format.LogicalTypeValue {
	if t := c.Type().LogicalType(); t != nil {
		return t.Value
	}
	return nil
}

func isList(c *parquet.Column) bool {
	if _, ok := logical(c).(*format.ListType); ok {
		return true
	}
	t := c.Type().ConvertedType()
	return t != nil && *t == deprecated.List
}

// converter returns how a leaf's values become those of a Row.
func converter(c *parquet.Column) (func(parquet.Value) any, error) {
	unsupported := func() (func(parquet.Value) any, error) {
		return nil, fmt.Errorf("its type %s is not supported", c.Type())
	}
	annotation := logical(c)
	if _, ok := annotation.(*format.DecimalType); ok {
		return unsupported()
	}
	unsigned := false
	if t, ok := annotation.(*format.IntType); ok {
		unsigned = !t.IsSigned
	}
	switch c.Type().Kind() {
	case parquet.Boolean:
		return func(v parquet.Value) any { return v.Boolean() }, nil
	case parquet.Int32:
		switch {
		case unsigned:
			return func(v parquet.Value) any { return int64(v.Uint32()) }, nil
		case isDate(annotation):
			return func(v parquet.Value) any { return time.Unix(int64(v.Int32())*24*60*60, 0).UTC() }, nil
		}
		return func(v parquet.Value) any { return int64(v.Int32()) }, nil
	case parquet.Int64:
		if t, ok := annotation.(*format.TimestampType); ok {
			return timestamps(t), nil
		}
		return func(v parquet.Value) any { return v.Int64() }, nil
	case parquet.Float:
		return func(v parquet.Value) any { return float64(v.Float()) }, nil
	case parquet.Double:
		return func(v parquet.Value) any { return v.Double() }, nil
	case parquet.ByteArray:
		if isText(c, annotation) {
			return func(v parquet.Value) any { return string(v.ByteArray()) }, nil
		}
		return func(v parquet.Value) any { return bytes.Clone(v.ByteArray()) }, nil
	case parquet.FixedLenByteArray:
		if annotation == nil {
			return func(v parquet.Value) any { return bytes.Clone(v.ByteArray()) }, nil
		}
	}
	return unsupported()
}

func isDate(annotation format.LogicalTypeValue) bool {
	_, ok := annotation.(*format.DateType)
	return ok
}

func isText(c *parquet.Column, annotation format.LogicalTypeValue) bool {
	switch annotation.(type) {
	case *format.StringType, *format.JsonType, *format.EnumType:
		return true
	}
	t := c.Type().ConvertedType()
	return t != nil && (*t == deprecated.UTF8 || *t == deprecated.Json || *t == deprecated.Enum)
}

func timestamps(t *format.TimestampType) func(parquet.Value) any {
	switch t.Unit.Value.(type) {
	case *format.MilliSeconds:
		return func(v parquet.Value) any { return time.UnixMilli(v.Int64()).UTC() }
	case *format.MicroSeconds:
		return func(v parquet.Value) any { return time.UnixMicro(v.Int64()).UTC() }
	}
	return func(v parquet.Value) any { return time.Unix(0, v.Int64()).UTC() }
}

// columnValue is the value of a row's column: maps for objects, but JSON text where chat templates print them, as Row says.
func columnValue(name string, v any) (any, error) {
	list, ok := v.([]any)
	if !ok {
		return plain(v), nil
	}
	if name == "tools" {
		return jsonText(v)
	}
	first, _ := firstOf(list).(object)
	conversation := first.has("role") || first.has("from")
	out := make([]any, len(list))
	for i, e := range list {
		message, ok := e.(object)
		if !ok || !conversation {
			out[i] = plain(e)
			continue
		}
		fields := make(map[string]any, len(message))
		for _, f := range message {
			switch f.value.(type) {
			case object, []any:
				text, err := jsonText(f.value)
				if err != nil {
					return nil, err
				}
				fields[f.name] = text
			default:
				fields[f.name] = f.value
			}
		}
		out[i] = fields
	}
	return out, nil
}

func firstOf(list []any) any {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

func (o object) has(name string) bool {
	for _, f := range o {
		if f.name == name {
			return true
		}
	}
	return false
}

// plain turns objects into maps.
func plain(v any) any {
	switch v := v.(type) {
	case object:
		fields := make(map[string]any, len(v))
		for _, f := range v {
			fields[f.name] = plain(f.value)
		}
		return fields
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	}
	return v
}

// jsonText writes a value with its fields in the file's order, and floats as floats.
func jsonText(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	err := writeJSON(&b, v)
	return b.Bytes(), err
}

func writeJSON(b *bytes.Buffer, v any) (err error) {
	switch v := v.(type) {
	case object:
		b.WriteByte('{')
		for i, f := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := errors.Join(writeJSON(b, f.name), b.WriteByte(':'), writeJSON(b, f.value)); err != nil {
				return err
			}
		}
		return b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeJSON(b, e); err != nil {
				return err
			}
		}
		return b.WriteByte(']')
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1e16 {
			_, err = fmt.Fprintf(b, "%.1f", v)
			return err
		}
	}
	encoder := json.NewEncoder(b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the newline
	return nil
}
