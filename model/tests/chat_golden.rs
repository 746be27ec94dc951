//! Chat templates in the styles of the families, rendered byte for byte as transformers renders them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use syn1_model::{ChatError, Date, Message, Spec, Tokenizer};

/// What `fixtures/make_chat_golden.py` writes.
#[derive(Deserialize)]
struct Golden {
    now: u64,
    tokens: BTreeMap<String, String>,
    templates: BTreeMap<String, String>,
    conversations: Vec<Vec<Message>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: usize,
    add_generation_prompt: bool,
    /// None where the template raises `error`.
    text: Option<String>,
    error: Option<String>,
}

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// A tokenizer with the template in the place where most models have it.
fn with_template(golden: &Golden, template: &str) -> Tokenizer {
    let folder = tempfile::tempdir().expect("folder");
    let mut config = serde_json::to_value(&golden.tokens).expect("tokens");
    config["chat_template"] = template.into();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).expect("write");
    let tokenizer = fixtures().join("tokenizers/metaspace.json");
    std::fs::copy(tokenizer, folder.path().join("tokenizer.json")).expect("copy");
    let spec = Spec::from_folder(&fixtures().join("llama")).expect("fixture");
    Tokenizer::open(folder.path(), &spec).expect("open").expect("a tokenizer")
}

#[test]
fn every_template_gives_what_transformers_gives() {
    let golden = std::fs::read(fixtures().join("chat_golden.json")).expect("golden");
    let golden: Golden = serde_json::from_slice(&golden).expect("a golden of the known form");
    let date = Date::from_unix(golden.now);
    assert_eq!(golden.cases.len(), golden.templates.len() * golden.conversations.len() * 2);
    let mut wrong = Vec::new();
    for (name, template) in &golden.templates {
        let tokenizer = with_template(&golden, template);
        let template = tokenizer.chat_template().expect("a template");
        for case in golden.cases.iter().filter(|case| case.template == *name) {
            let messages = &golden.conversations[case.conversation];
            let rendered = template.render(messages, case.add_generation_prompt, date);
            let same = match (&rendered, &case.text, &case.error) {
                (Ok(text), Some(wanted), _) => text == wanted,
                (Err(ChatError::Refused { message, .. }), None, Some(wanted)) => message == wanted,
                _ => false,
            };
            if !same {
                wrong.push(format!("{name} {messages:?}\n{rendered:?}\n{:?} {:?}", case.text, case.error));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n\n"));
}
