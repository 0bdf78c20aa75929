package sft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// TensorBoard writes the log as TensorBoard's event files into a folder, with the tags of transformers' callback: train/loss,
// eval/loss. The settings are there as text. A resumed run adds a file that tells TensorBoard to forget the steps which it
// takes again.
func TensorBoard(dir string) Callback {
	var file *os.File
	write := func(e event) error {
		if file == nil {
			return nil
		}
		e.seconds = float64(time.Now().UnixNano()) / 1e9
		if _, err := file.Write(e.record()); err != nil {
			return fmt.Errorf("sft: TensorBoard: %w", err)
		}
		return nil
	}
	open := func(e *Event) (err error) {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return fmt.Errorf("sft: TensorBoard: %w", err)
		}
		host, _ := os.Hostname()
		now := time.Now()
		name := fmt.Sprintf("events.out.tfevents.%d.%s.%d.%d", now.Unix(), host, os.Getpid(), now.Nanosecond())
		if file, err = os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666); err != nil {
			return fmt.Errorf("sft: TensorBoard: %w", err)
		}
		step := int64(e.State.GlobalStep)
		settings, err := pythonJSON(e.Config)
		if err != nil {
			return err
		}
		args := event{step: 0, summary: textValue("args/text_summary", "```json\n"+string(settings)+"```")}
		err = errors.Join(write(event{version: "brain.Event:2"}), write(args))
		if step > 0 {
			err = errors.Join(err, write(event{step: step + 1, start: true}))
		}
		return err
	}
	return Callback{
		OnTrainBegin: open,
		OnLog: func(e *Event) error {
			var summary []byte
			for _, m := range e.Metrics {
				if m.Name != "step" && !(m.Name == "epoch" && len(e.Metrics) == 2) {
					summary = append(summary, scalarValue(tag(m.Name), m.Value)...)
				}
			}
			return write(event{step: int64(e.State.GlobalStep), summary: summary})
		},
		close: func() error {
			if file == nil {
				return nil
			}
			err := file.Close()
			file = nil
			return err
		},
	}
}

// tag is a metric's name in TensorBoard, by transformers' rewrite_logs.
func tag(metric string) string {
	if name, ok := strings.CutPrefix(metric, "eval_"); ok {
		return "eval/" + name
	}
	return "train/" + metric
}

// event is TensorFlow's Event (tensorflow/core/util/event.proto).
type event struct {
	seconds float64 // since 1970
	step    int64
	version string // of the file format, in its first event
	start   bool   // a SessionLog that starts here: later steps of earlier files do not count
	summary []byte // encoded values
}

// record is the event as TFRecord: length, checksum of it, data, checksum of them.
func (e event) record() []byte {
	var data []byte
	data = protowire.AppendTag(data, 1, protowire.Fixed64Type)
	data = protowire.AppendFixed64(data, math.Float64bits(e.seconds))
	if e.step != 0 {
		data = protowire.AppendTag(data, 2, protowire.VarintType)
		data = protowire.AppendVarint(data, uint64(e.step))
	}
	if e.version != "" {
		data = appendField(data, 3, []byte(e.version))
	}
	if e.summary != nil {
		data = appendField(data, 5, e.summary)
	}
	if e.start {
		data = appendField(data, 7, protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1))
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	out = binary.LittleEndian.AppendUint32(out, maskedCRC(out))
	out = append(out, data...)
	return binary.LittleEndian.AppendUint32(out, maskedCRC(data))
}

func appendField(b []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}

// scalarValue is a Summary.Value with a simple_value, as a field of Summary.
func scalarValue(tag string, value float64) []byte {
	v := appendField(nil, 1, []byte(tag))
	v = protowire.AppendTag(v, 2, protowire.Fixed32Type)
	v = protowire.AppendFixed32(v, math.Float32bits(float32(value)))
	return appendField(nil, 1, v)
}

// textValue is a Summary.Value of TensorBoard's text plugin: a string tensor [1].
func textValue(tag, text string) []byte {
	const dtString = 7
	dim := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	tensor := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), dtString)
	tensor = appendField(tensor, 2, appendField(nil, 2, dim))
	tensor = appendField(tensor, 8, []byte(text))
	v := appendField(nil, 1, []byte(tag))
	v = appendField(v, 8, tensor)
	v = appendField(v, 9, appendField(nil, 1, appendField(nil, 1, []byte("text"))))
	return appendField(nil, 1, v)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is TFRecord's checksum: CRC-32C, rotated, so that a checksum over data with checksums stays one.
func maskedCRC(data []byte) uint32 {
	c := crc32.Checksum(data, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}
