// Package hub finds models by their ids, such as "Qwen/Qwen3-0.6B", in the cache that Python's huggingface_hub keeps, and
// downloads them into it.
//
// [Find] never uses the network; models.FromPretrained and tokenizer.FromPretrained call it for what is no path. Only
// [Download] does, for those who call it. Layout: models--ORG--NAME with refs/REVISION (a commit), snapshots/COMMIT (links)
// and blobs/ETAG, in $HF_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub.
package hub
