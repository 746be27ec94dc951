//! A chat model as people and programs talk with it: once, in a conversation, split, and over HTTP.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::support::chat_model::chat_model;
use crate::support::{Model, Node, Running, greedy, ready, repository, syn1};
use serde_json::{Value, json};
use syn1_coordinator::placement::Policy;
use syn1_core::{Codec, Form};
use syn1_model::WeightFormat;
use syn1_model::chat::Message;
use syn1_model::date::Date;
use syn1_model::folder::ModelFolder;
use syn1_model::tokenizer::Tokenizer;
use syn1_node_host::DeviceChoice;
use tempfile::TempDir;

fn path(folder: &TempDir) -> &str {
    folder.path().to_str().unwrap()
}

fn run(args: &[&str]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    syn1(cache.path()).args(args).args(["--device", "cpu"]).output().unwrap()
}

fn report(args: &[&str]) -> Value {
    let output = run(&[args, &["--json", "--temperature", "0", "--wire", "f32"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn ids(tokenizer: &Tokenizer, messages: &[(&str, &str)]) -> Vec<u32> {
    let messages: Vec<Message> = messages.iter().map(|(role, text)| Message::new(*role, *text)).collect();
    tokenizer.encode_chat(&messages, Date::from_unix(0)).unwrap()
}

fn tokenizer(folder: &Path) -> Tokenizer {
    ModelFolder::open(folder).unwrap().tokenizer().unwrap().clone()
}

#[test]
fn a_message_is_answered_by_the_template_and_only_the_answer_is_printed() {
    let model = chat_model("</s>");
    let args = ["generate", "--model", path(&model), "--chat", "Hello", "--system", "Be brief", "--max-tokens", "12"];
    let report = report(&args);
    let wanted = ids(&tokenizer(model.path()), &[("system", "Be brief"), ("user", "Hello")]);
    assert_eq!(report["prompt_ids"], json!(wanted));
    assert_eq!(report["text"], report["completion"]);
    let output = run(&[&args[..], &["--temperature", "0", "--wire", "f32"]].concat());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", report["text"].as_str().unwrap()));

    // A split folder chats as its source does.
    let split = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let done = syn1(cache.path()).args(["split", "--model", path(&model), "--out", path(&split)]).status().unwrap();
    assert!(done.success());
    let args = ["generate", "--model", path(&split), "--chat", "Hello", "--system", "Be brief", "--max-tokens", "12"];
    assert_eq!(self::report(&args)["ids"], report["ids"]);
}

#[test]
fn a_conversation_remembers_until_it_is_reset() {
    let model = chat_model("</s>");
    let cache = tempfile::tempdir().unwrap();
    let args = ["chat", "--model", path(&model), "--temperature", "0", "--max-tokens", "6", "--device", "cpu"];
    let mut command = syn1(cache.path());
    command.args(args).args(["--wire", "f32"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = command.spawn().unwrap();
    let lines = b"Hello\nAnd now?\n\n/reset\nHello\r\n/quit\nnobody hears this\n";
    program.stdin.take().unwrap().write_all(lines).unwrap();
    let output = program.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let answer = |messages: &[(&str, &str)]| {
        let prompt = ids(&tokenizer(model.path()), messages).iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let report = report(&["generate", "--model", path(&model), "--ids", &prompt, "--max-tokens", "6"]);
        report["completion"].as_str().unwrap().to_owned()
    };
    let first = answer(&[("user", "Hello")]);
    let second = answer(&[("user", "Hello"), ("assistant", &first), ("user", "And now?")]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{first}\n{second}\n{first}\n"));
}

#[cfg(unix)]
#[test]
fn a_conversation_that_waits_for_a_line_ends_at_ctrl_c() {
    use std::io::Read;
    use std::process::Command;

    let model = chat_model("</s>");
    let cache = tempfile::tempdir().unwrap();
    let mut command = syn1(cache.path());
    command.args(["chat", "--model", path(&model), "--max-tokens", "1", "--device", "cpu"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut program = Running(command.spawn().unwrap());
    // Open until the end: waiting for the program would close it, which is another way to end.
    let mut stdin = program.0.stdin.take().unwrap();
    stdin.write_all(b"Hello\n").unwrap();
    // The answer's line is the last thing that is printed before it waits.
    let mut byte = [0];
    while byte != *b"\n" {
        program.0.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    }
    assert!(Command::new("kill").args(["-INT", &program.0.id().to_string()]).status().unwrap().success());
    assert_eq!(program.0.wait().unwrap().code(), Some(130));
    drop(stdin);
}

#[test]
fn the_tokenizers_end_token_ends_an_answer() {
    let model = chat_model("</s>");
    let args = ["generate", "--model", path(&model), "--chat", "Hello", "--max-tokens", "24"];
    let whole = report(&args);
    let tokenizer = tokenizer(model.path());
    let generated: Vec<u32> = serde_json::from_value(whole["ids"].clone()).unwrap();
    let spelled = |id: &u32| tokenizer.token(*id).filter(|token| tokenizer.id(token) == Some(*id));
    let (at, end) = generated.iter().enumerate().skip(1).find_map(|(at, id)| Some((at, spelled(id)?))).unwrap();
    let at = at.min(generated.iter().position(|id| tokenizer.token(*id).as_deref() == Some(end.as_str())).unwrap());

    let other = chat_model(&end);
    let ended = report(&["generate", "--model", path(&other), "--chat", "Hello", "--max-tokens", "24"]);
    assert_eq!(ended["ids"], json!(generated[..at]));
    assert_eq!(ended["finish"], "stop");
}

#[test]
fn what_cannot_be_said_is_refused_by_name() {
    let model = chat_model("</s>");
    let fails = |args: &[&str], words: &[&str]| {
        let output = run(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        for word in words {
            assert!(error.contains(word), "{args:?}: {error}");
        }
    };
    fails(&["generate", "--chat", "Hello"], &["no chat template", "prompt to continue"]);
    fails(&["chat"], &["no chat template"]);
    let gpt2 = repository("fixtures/gpt2");
    fails(&["generate", "--chat", "Hello", "--model", gpt2.to_str().unwrap()], &["no tokenizer.json", "--ids"]);
    fails(&["chat", "--model", gpt2.to_str().unwrap()], &["no tokenizer.json"]);
    fails(&["generate", "--chat", &"word ".repeat(300), "--model", path(&model)], &["tokens", "256"]);
    fails(&["chat", "--model", path(&model), "--top-p", "2"], &["top_p is 2"]);
    let template = model.path().join("chat_template.jinja");
    fs::write(&template, "{{ raise_exception('no ' + messages[0].role) }}").unwrap();
    fails(&["generate", "--chat", "Hi", "--model", path(&model)], &["refuses these messages: no user", "line 1"]);
    fs::write(&template, "\n{% if %}").unwrap();
    fails(&["generate", "--chat", "Hi", "--model", path(&model)], &["chat_template.jinja, line 2", "syntax error"]);
    // Who does not chat is not kept from anything.
    let ids = run(&["generate", "--ids", "1,2", "--max-tokens", "1", "--model", path(&model)]);
    assert!(ids.status.success(), "{ids:?}");
}

#[tokio::test]
async fn messages_are_answered_over_http() {
    let folder = chat_model("</s>");
    let model = Model::split(path(&folder), WeightFormat::F16);
    let server = model.server(Policy::Auto, Form::plain(Codec::F32), 1);
    let cache = tempfile::tempdir().unwrap();
    let _node = Node::join(&server, "only", &DeviceChoice::Cpu, Some(model.shards.path().to_owned()), cache.path());
    ready(&server).await;
    let prompt = ids(model.folder.tokenizer().unwrap(), &[("system", "Be brief"), ("user", "Hello")]);
    let alone = crate::support::collect(server.generate(greedy(&prompt, 8)).unwrap()).await.unwrap();

    let url = format!("http://{}/api/generate", server.http());
    let post = |ask: Value| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            let request = ureq::post(&url).config().http_status_as_error(false).build();
            let mut response = request.header("content-type", "application/json").send(ask.to_string()).unwrap();
            (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
        })
    };
    let messages = json!([{ "role": "system", "content": "Be brief" }, { "role": "user", "content": "Hello" }]);
    let settings = json!({ "max_tokens": 8, "ignore_eos": true, "sampling": { "temperature": 0.0 } });
    let with = |key: &str, value: &Value| {
        let mut ask = settings.clone();
        ask[key] = value.clone();
        ask
    };
    let (status, answer) = post(with("messages", &messages)).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    let lines: Vec<Value> = answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<u64> = lines.iter().filter_map(|line| line["token"]["id"].as_u64()).collect();
    assert_eq!(json!(ids), json!(alone.0));

    let mut both = with("messages", &messages);
    both["prompt"] = "Hello".into();
    let marked = json!([{ "role": "user", "content": "\u{FDD0}" }]);
    let role = json!([{ "role": "user|>", "content": "" }]);
    for (ask, word) in [
        (both, "one of prompt, messages and ids"),
        (settings.clone(), "one of prompt, messages and ids"),
        (with("messages", &json!([])), "no messages"),
        (with("messages", &marked), "U+FDD0"),
        (with("messages", &role), "not a word"),
        (with("messages", &json!([{ "role": "user", "content": 1 }])), "content"),
    ] {
        let (status, error) = post(ask).await.unwrap();
        assert!((400..500).contains(&status) && error.contains(word), "{status} {error}");
    }
}
