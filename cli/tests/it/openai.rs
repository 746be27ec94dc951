//! OpenAI's own client, in Python, against running coordinators: `openai/client.py` says what it expects.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::chat_model::chat_model;
use crate::support::{Golden, Model, Node, collect, greedy, ready, repository};
use serde_json::json;
use syn1_coordinator::access::Access;
use syn1_coordinator::front::Front;
use syn1_coordinator::placement::Policy;
use syn1_core::{Codec, Form};
use syn1_model::WeightFormat;
use syn1_model::chat::Message;
use syn1_model::date::Date;
use syn1_node_host::DeviceChoice;

#[tokio::test]
async fn the_openai_client_finds_what_it_knows() {
    let python = python();
    let cache = tempfile::tempdir().unwrap();
    let join = |server: &_, name: &str, model: &Model| {
        Node::join(server, name, &DeviceChoice::Cpu, Some(model.shards.path().to_owned()), cache.path())
    };
    let form = Form::plain(Codec::F32);
    let key = "a-key-for-the-client";
    let locked = Access { users: vec![key.parse().unwrap()], ..Access::default() };

    let folder = chat_model("</s>");
    let model = Model::split(folder.path().to_str().unwrap(), WeightFormat::F16);
    let chat = model.server_with(Policy::Exactly(2), form, 2, Vec::new(), Front::default(), locked.clone());
    let _chat = ["a", "b"].map(|name| join(&chat, name, &model));
    let bundled = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let text = bundled.server(Policy::Exactly(1), form, 4);
    let _text = join(&text, "only", &bundled);
    let rare = Access { per_minute: NonZeroU32::new(6), ..locked };
    let empty = bundled.server_with(Policy::Exactly(1), form, 1, Vec::new(), Front::default(), rare);
    ready(&chat).await;
    ready(&text).await;

    let messages = [Message::new("system", "Be brief"), Message::new("user", "Hello")];
    let prompt = model.folder.tokenizer().unwrap().encode_chat(&messages, Date::from_unix(0)).unwrap();
    let (_, answer, _) = collect(chat.generate(greedy(&prompt, 8)).unwrap()).await.unwrap();
    let golden = Golden::of("models/tiny-rust-docs");
    let url = |server: &syn1_coordinator::server::Server| format!("http://{}", server.http());
    let facts = json!({
        "chat": url(&chat),
        "text": url(&text),
        "empty": url(&empty),
        "key": key,
        "version": env!("CARGO_PKG_VERSION"),
        "nodes": ["a", "b"],
        "chat_model": model.folder.name(),
        "chat_context": model.folder.spec().max_positions,
        "chat_answer": answer,
        "chat_prompt_tokens": prompt.len(),
        "text_model": bundled.folder.name(),
        "prompt": golden.cases[0].prompt,
        "ids": golden.cases[0].ids,
        "golden": golden.cases[0].text,
    });
    let file = cache.path().join("facts.json");
    std::fs::write(&file, facts.to_string()).unwrap();
    let run = move || Command::new(python).arg(repository("cli/tests/it/openai/client.py")).arg(file).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The Python that has the packages of `openai/requirements.txt`.
fn python() -> PathBuf {
    let program = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };
    // The test's own program is TARGET/debug/deps/it-0123456789abcdef.
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).map(Path::to_owned).unwrap();
    let python = target.join("openai-client").join(program);
    let how = "`cargo xtask test` makes it; `cargo test -- --skip the_openai_client` does without";
    assert!(python.exists(), "{} is not there: {how}", python.display());
    python
}
