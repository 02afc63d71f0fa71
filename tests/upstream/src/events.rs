//! The events of one streamed answer, in the order and form the provider sends them.

use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

/// An answer that breaks off.
#[derive(Debug)]
pub struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut by the script")
    }
}

impl std::error::Error for Cut {}

pub type Piece = Result<Frame<Bytes>, Cut>;

/// The client went away.
#[derive(Debug)]
pub struct Gone;

pub struct Stream {
    out: Sender<Piece>,
    response: Value,
    output: Vec<Value>,
    sequence: u64,
    deltas: u64,
    reasoning: u64,
}

impl Stream {
    pub fn new(out: Sender<Piece>, id: String, model: &str) -> Self {
        let response = json!({"id": id, "object": "response", "created_at": 1_700_000_000, "model": model,
            "status": "in_progress", "output": []});
        Self { out, response, output: Vec::new(), sequence: 0, deltas: 0, reasoning: 0 }
    }

    async fn event(&mut self, name: &str, mut event: Value) -> Result<(), Gone> {
        event["type"] = json!(name);
        event["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        let text = format!("event: {name}\ndata: {event}\n\n");
        self.out.send(Ok(Frame::data(text.into()))).await.map_err(|_| Gone)
    }

    fn item_id(&self, kind: &str) -> String {
        format!("{kind}_{}_{}", self.response["id"].as_str().unwrap_or_default(), self.output.len())
    }

    async fn done(&mut self, item: Value) -> Result<(), Gone> {
        let index = self.output.len();
        self.output.push(item.clone());
        self.event("response.output_item.done", json!({"output_index": index, "item": item})).await
    }

    pub async fn begin(&mut self) -> Result<(), Gone> {
        let response = self.response.clone();
        self.event("response.created", json!({"response": response})).await?;
        self.event("response.in_progress", json!({"response": response})).await
    }

    /// A message; `whole` is false when it shall be left unfinished.
    pub async fn message(&mut self, words: &[String], pause: Duration, whole: bool) -> Result<(), Gone> {
        let (index, id) = (self.output.len(), self.item_id("msg"));
        let item = json!({"id": id, "type": "message", "role": "assistant", "status": "in_progress", "content": []});
        self.event("response.output_item.added", json!({"output_index": index, "item": item})).await?;
        let place = json!({"item_id": id, "output_index": index, "content_index": 0});
        let at = |more: Value| merge(&place, more);
        let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
        self.event("response.content_part.added", at(json!({"part": part("")}))).await?;
        for word in words {
            self.deltas += 1;
            self.event("response.output_text.delta", at(json!({"delta": word}))).await?;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        if !whole {
            return Ok(());
        }
        let text = words.concat();
        self.event("response.output_text.done", at(json!({"text": text}))).await?;
        self.event("response.content_part.done", at(json!({"part": part(&text)}))).await?;
        self.done(merge(&item, json!({"status": "completed", "content": [part(&text)]}))).await
    }

    pub async fn reasoning(&mut self, text: &str) -> Result<(), Gone> {
        let (index, id) = (self.output.len(), self.item_id("rs"));
        let item = json!({"id": id, "type": "reasoning", "summary": []});
        self.event("response.output_item.added", json!({"output_index": index, "item": item})).await?;
        let place = json!({"item_id": id, "output_index": index, "summary_index": 0});
        let at = |more: Value| merge(&place, more);
        let part = |text: &str| json!({"type": "summary_text", "text": text});
        self.event("response.reasoning_summary_part.added", at(json!({"part": part("")}))).await?;
        for word in words(text) {
            self.deltas += 1;
            self.reasoning += 1;
            self.event("response.reasoning_summary_text.delta", at(json!({"delta": word}))).await?;
        }
        self.event("response.reasoning_summary_text.done", at(json!({"text": text}))).await?;
        self.event("response.reasoning_summary_part.done", at(json!({"part": part(text)}))).await?;
        self.done(merge(&item, json!({"summary": [part(text)], "encrypted_content": "c2NyaXB0ZWQ="}))).await
    }

    pub async fn call(&mut self, name: &str, arguments: &Value) -> Result<(), Gone> {
        let (index, id) = (self.output.len(), self.item_id("fc"));
        let call_id = format!("call_{id}");
        let item = json!({"id": id, "type": "function_call", "status": "in_progress", "call_id": call_id,
            "name": name, "arguments": ""});
        self.event("response.output_item.added", json!({"output_index": index, "item": item})).await?;
        let arguments = arguments.to_string();
        let place = json!({"item_id": id, "output_index": index});
        let at = |more: Value| merge(&place, more);
        for piece in arguments.chars().collect::<Vec<_>>().chunks(8) {
            self.deltas += 1;
            let delta: String = piece.iter().collect();
            self.event("response.function_call_arguments.delta", at(json!({"delta": delta}))).await?;
        }
        self.event("response.function_call_arguments.done", at(json!({"arguments": arguments}))).await?;
        self.done(merge(&item, json!({"status": "completed", "arguments": arguments}))).await
    }

    pub async fn completed(&mut self, input_tokens: u64) -> Result<(), Gone> {
        let usage = json!({
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": input_tokens / 2},
            "output_tokens": self.deltas,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": input_tokens + self.deltas,
        });
        let end = json!({"status": "completed", "output": self.output, "usage": usage});
        self.event("response.completed", json!({"response": merge(&self.response, end)})).await
    }

    pub async fn failed(&mut self) -> Result<(), Gone> {
        let error = json!({"code": "server_error", "message": "The model produced invalid content."});
        let end = json!({"status": "failed", "error": error, "usage": null});
        self.event("response.failed", json!({"response": merge(&self.response, end)})).await
    }

    pub async fn cut(self) {
        let _ = self.out.send(Err(Cut)).await;
    }

    pub async fn until_gone(self) {
        self.out.closed().await;
    }
}

fn merge(base: &Value, more: Value) -> Value {
    let mut all = base.clone();
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
        all.extend(more);
    }
    all
}

/// A text in pieces that end with their blanks.
pub fn words(text: &str) -> Vec<String> {
    text.split_inclusive(char::is_whitespace).map(str::to_owned).collect()
}
