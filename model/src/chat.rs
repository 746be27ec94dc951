//! Messages to the text that a chat model was trained on, by the model's own template.
//!
//! Templates are Jinja programs made for Python's `transformers`, and are run as it runs them: blocks take their line with
//! them (`trim_blocks`, `lstrip_blocks`), Python's methods of strings and dictionaries work, `tojson` writes as Python
//! does, and `raise_exception` and `strftime_now` are there. A template sees `messages`, `add_generation_prompt`, the
//! tokens by their roles (`bos_token`, ..), and `tools` and `documents`, which are none.
//!
//! A template comes with the weights and is trusted as they are, within limits: its steps, its depth and what it writes are
//! bounded ([`limits`](crate::limits)); it reads no file and knows no clock. What one expression builds in memory is not
//! bounded. Messages come from anybody; how their text is kept from being taken for control tokens is told at
//! [`Tokenizer::encode_chat`](crate::Tokenizer::encode_chat).

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{AutoEscape, Environment, context};
use serde::{Deserialize, Serialize};

use crate::bounded::read_bounded;
use crate::date::Date;
use crate::limits::{MAX_CHAT_BYTES, MAX_ROLE_BYTES, MAX_TEMPLATE_BYTES, MAX_TEMPLATE_DEPTH, MAX_TEMPLATE_STEPS};
use crate::tokenizer::TokenizerError;
use crate::tokenizer_config::TokenizerConfig;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it, in the template's words: `system`, `user` and `assistant` for most.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message with a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A model's chat template. Cloning is cheap.
///
/// It is compiled anew for each use, which takes less than tokenizing does: so a template that this version cannot run
/// keeps nobody from using the model without it.
#[derive(Clone)]
pub struct ChatTemplate {
    /// The file that it came from.
    path: Arc<Path>,
    source: Arc<str>,
    /// The tokens by their roles.
    tokens: Arc<BTreeMap<&'static str, String>>,
}

/// Why messages do not become a prompt.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// A model that is not made for chats.
    #[error(
        "this model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json): give it a \
         prompt to continue"
    )]
    NoTemplate,
    /// A template's file that cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// No message at all.
    #[error("there are no messages: give at least one")]
    NoMessages,
    /// A role that could be mistaken for something else, since templates write it among control tokens.
    #[error("the role {0:?} is not a word of at most {MAX_ROLE_BYTES} letters, digits, - and _")]
    Role(String),
    /// A text with the character that stands for the difference between control tokens and text that looks like them.
    #[error("a message holds U+FDD0, which is no character of any text: leave it out")]
    Marker,
    /// A template that this version cannot run, or that is wrong.
    #[error(
        "{}, line {line}: {reason}; correct the template, or give the model a prompt in place of messages",
        path.display()
    )]
    Template {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on; 0 where it is not known.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// What the template says against these messages.
    #[error("the model's chat template refuses these messages: {message} ({}, line {line})", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on; 0 where it is not known.
        line: usize,
        /// The template's words.
        message: String,
    },
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl ChatTemplate {
    /// The file's name.
    pub const FILE: &str = "chat_template.jinja";

    /// The template in a folder, from `chat_template.jinja` or else from its `tokenizer_config.json`; `None` if it has
    /// none. Templates for other purposes (`additional_chat_templates`, or under another name than `default`) are not used.
    ///
    /// # Errors
    /// A file that cannot be read, is not UTF-8, or is longer than [`MAX_TEMPLATE_BYTES`].
    pub(crate) fn load(folder: &Path, config: TokenizerConfig) -> Result<Option<Self>, ChatError> {
        let path = folder.join(Self::FILE);
        let (path, source) = match read_bounded(&path, MAX_TEMPLATE_BYTES) {
            Ok(bytes) => {
                (path, String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error)))
            }
            Err(error) if error.kind() != ErrorKind::NotFound => (path, Err(error)),
            Err(_) => match config.chat_template {
                Some(source) => (folder.join(TokenizerConfig::FILE), bounded(source)),
                None => return Ok(None),
            },
        };
        match source {
            Ok(source) => Ok(Some(Self { path: path.into(), source: source.into(), tokens: Arc::new(config.tokens) })),
            Err(error) => Err(ChatError::Read { path, error }),
        }
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the model's answer begins. `date` is what the
    /// template is told when it asks for today's.
    ///
    /// # Errors
    /// No messages, a role that is not a word, a template that is wrong, that asks for what this version has not, or that
    /// refuses these messages.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool, date: Date) -> Result<String, ChatError> {
        if messages.is_empty() {
            return Err(ChatError::NoMessages);
        }
        if let Some(message) = messages.iter().find(|message| !is_word(&message.role)) {
            return Err(ChatError::Role(message.role.clone()));
        }
        let source = without_generation_blocks(&self.source);
        let mut text = Bounded::default();
        let rendered = environment(date).and_then(|environment| {
            let messages = Value::from(Serde(messages));
            let tokens = Value::from(Serde(&*self.tokens));
            let (tools, documents) = (Value::from(()), Value::from(()));
            let given = context! { messages, add_generation_prompt, tools, documents, ..tokens };
            environment.template_from_named_str(Self::FILE, &source)?.render_captured_to(given, &mut text).map(drop)
        });
        match rendered {
            Ok(()) => text.into_string().map_err(|reason| self.wrong(0, reason)),
            Err(_) if text.is_full => Err(self.wrong(0, format!("it writes more than {MAX_CHAT_BYTES} bytes"))),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &minijinja::Error) -> ChatError {
        let line = error.line().unwrap_or(0);
        let mut cause = std::error::Error::source(error);
        while let Some(found) = cause {
            if let Some(Refused(message)) = found.downcast_ref() {
                return ChatError::Refused { path: self.path.to_path_buf(), line, message: message.clone() };
            }
            cause = found.source();
        }
        let reason = match (error.kind(), error.detail()) {
            (minijinja::ErrorKind::OutOfFuel, _) => format!("it takes more than {MAX_TEMPLATE_STEPS} steps"),
            (kind, Some(detail)) => format!("{kind}: {detail}"),
            (kind, None) => kind.to_string(),
        };
        self.wrong(line, reason)
    }

    fn wrong(&self, line: usize, reason: String) -> ChatError {
        ChatError::Template { path: self.path.to_path_buf(), line, reason }
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChatTemplate({}, {} bytes)", self.path.display(), self.source.len())
    }
}

fn bounded(source: String) -> io::Result<String> {
    if source.len() as u64 > MAX_TEMPLATE_BYTES {
        let text = format!("its chat_template has {} bytes; at most {MAX_TEMPLATE_BYTES} are allowed", source.len());
        return Err(io::Error::new(ErrorKind::FileTooLarge, text));
    }
    Ok(source)
}

fn is_word(role: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_ROLE_BYTES).contains(&role.len()) && role.bytes().all(word)
}

/// What transformers gives a template.
fn environment(date: Date) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, state, value| match python_word(value) {
        Some(word) => out.write_str(word).map_err(minijinja::Error::from),
        None => minijinja::escape_formatter(out, state, value),
    });
    environment.set_fuel(Some(MAX_TEMPLATE_STEPS));
    environment.set_recursion_limit(MAX_TEMPLATE_DEPTH);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, "refused").with_source(Refused(message)))
    });
    environment.add_function("strftime_now", move |format: &str| {
        let told = date.format(format);
        told.map_err(|error| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, error.to_string()))
    });
    Ok(environment)
}

/// How Python spells the values that Jinja itself has in small letters.
fn python_word(value: &Value) -> Option<&'static str> {
    match value.kind() {
        ValueKind::None => Some("None"),
        ValueKind::Bool => Some(if value.is_true() { "True" } else { "False" }),
        _ => None,
    }
}

/// `tojson` as Python's `json.dumps(value, ensure_ascii=False, indent=indent)` writes it.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let wrong = |why: String| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, why);
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(wrong("tojson(ensure_ascii=true) is not supported".into()));
    }
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, PythonJson)),
        Some(spaces) if spaces <= MAX_INDENT => {
            let spaces = " ".repeat(spaces);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        }
        Some(spaces) => return Err(wrong(format!("tojson(indent={spaces}); at most {MAX_INDENT} are supported"))),
    };
    written.map_err(|error| wrong(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| wrong(error.to_string()))
}

/// JSON with a space behind each comma and colon.
struct PythonJson;

impl serde_json::ser::Formatter for PythonJson {
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// The template with `{% generation %}` blocks, which mark what a model is trained on, as plain blocks: what is set inside
/// stays inside in both. The tags are replaced wherever they stand, and no line moves.
fn without_generation_blocks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        text.push_str(before);
        text.push_str("{%");
        rest = tag;
        let Some((inside, _)) = tag.split_once("%}") else { break };
        let plain = match inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim() {
            "generation" => inside.replace("generation", "with"),
            "endgeneration" => inside.replace("endgeneration", "endwith"),
            _ => continue,
        };
        text.push_str(&plain);
        rest = &tag[inside.len()..];
    }
    text + rest
}

/// The words of `raise_exception`.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// What a template writes, up to its limit.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    is_full: bool,
}

impl Bounded {
    fn into_string(self) -> Result<String, String> {
        String::from_utf8(self.bytes).map_err(|error| error.to_string())
    }
}

impl io::Write for &mut Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_CHAT_BYTES - self.bytes.len() {
            self.is_full = true;
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Spaces that `tojson` indents with at most: more is no indentation.
const MAX_INDENT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// A template text with the tokens `<s>` and `</s>`.
    fn template(source: &str) -> ChatTemplate {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join(ChatTemplate::FILE), source).expect("write");
        let config = TokenizerConfig {
            tokens: BTreeMap::from([("bos_token", "<s>".into()), ("eos_token", "</s>".into())]),
            ..TokenizerConfig::default()
        };
        ChatTemplate::load(folder.path(), config).expect("load").expect("a template")
    }

    fn hello() -> Vec<Message> {
        vec![Message::new("user", "Hello")]
    }

    fn render(source: &str, messages: &[Message]) -> Result<String, ChatError> {
        template(source).render(messages, true, Date::from_unix(1_709_210_096))
    }

    fn refusal(source: &str) -> String {
        render(source, &hello()).expect_err(source).to_string()
    }

    #[test]
    fn the_file_comes_before_the_setting_and_neither_is_none() {
        let folder = tempfile::tempdir().expect("folder");
        let config = |chat_template: Option<&str>| TokenizerConfig {
            chat_template: chat_template.map(str::to_owned),
            ..TokenizerConfig::default()
        };
        assert!(ChatTemplate::load(folder.path(), config(None)).expect("load").is_none());
        let setting = ChatTemplate::load(folder.path(), config(Some("setting"))).expect("load").expect("setting");
        assert_eq!(setting.render(&hello(), true, Date::from_unix(0)).expect("render"), "setting");
        std::fs::write(folder.path().join(ChatTemplate::FILE), "file").expect("write");
        let file = ChatTemplate::load(folder.path(), config(Some("setting"))).expect("load").expect("file");
        assert_eq!(file.render(&hello(), true, Date::from_unix(0)).expect("render"), "file");
    }

    #[test]
    fn a_template_that_is_too_long_or_no_text_is_refused_wherever_it_stands() {
        let long = "x".repeat(MAX_TEMPLATE_BYTES as usize + 1);
        let folder = tempfile::tempdir().expect("folder");
        let config = TokenizerConfig { chat_template: Some(long.clone()), ..TokenizerConfig::default() };
        let text = ChatTemplate::load(folder.path(), config).expect_err("long").to_string();
        assert!(text.contains("tokenizer_config.json") && text.contains("1048577"), "{text}");
        for bytes in [long.as_bytes(), b"\xff"] {
            std::fs::write(folder.path().join(ChatTemplate::FILE), bytes).expect("write");
            let text = ChatTemplate::load(folder.path(), TokenizerConfig::default()).expect_err("bad").to_string();
            assert!(text.contains("chat_template.jinja"), "{text}");
        }
    }

    #[test]
    fn values_and_json_are_written_as_python_writes_them() {
        let json = "{{ messages | tojson }}{{ {'a': [1, 2.0, none], 'ü': {}} | tojson(indent=2, ensure_ascii=false) }}";
        let text = render(json, &[Message::new("user", "<ü\n\">")]).expect("render");
        let compact = r#"[{"role": "user", "content": "<ü\n\">"}]"#;
        assert_eq!(text, compact.to_owned() + "{\n  \"a\": [\n    1,\n    2.0,\n    null\n  ],\n  \"ü\": {}\n}");
        assert_eq!(
            render("{{ true }} {{ none }} {{ tools }} {{ nowhere }}", &hello()).expect("render"),
            "True None None "
        );
    }

    #[test]
    fn generation_blocks_are_plain_blocks_with_their_white_space() {
        let source = "a\n  {% generation %}\n b\n{%- endgeneration -%}\n c{%-generation+%}{% set x = 1 %}\nd{%endgeneration%}{{ x }}";
        assert_eq!(render(source, &hello()).expect("render"), "a\n bcd");
    }

    #[test]
    fn what_a_template_refuses_is_told_in_its_words_with_its_line() {
        let source =
            "\n{% if messages[0].role != 'system' %}\n{{ raise_exception('a system ' ~ 'message first') }}{% endif %}";
        match render(source, &hello()).expect_err("refused") {
            ChatError::Refused { line, message, path } => {
                assert_eq!((line, message.as_str()), (3, "a system message first"));
                assert!(path.ends_with(ChatTemplate::FILE));
            }
            other => panic!("{other}"),
        }
        let source = "{% macro no() %}{{ raise_exception('inside') }}{% endmacro %}\n{{ no() }}";
        assert!(refusal(source).contains("refuses these messages: inside"), "{}", refusal(source));
    }

    #[test]
    fn what_is_wrong_with_a_template_is_told_with_file_and_line() {
        for (source, words) in [
            ("\n{% if %}", &["line 2", "syntax error"][..]),
            ("{{ 1 | no_such_filter }}", &["line 1", "no_such_filter"]),
            ("\n\n{{ messages.no_such_method() }}", &["line 3", "no_such_method"]),
            ("{{ 'x'.removeprefix('x') }}", &["removeprefix"]),
            ("{{ strftime_now('%Q') }}", &["%Q"]),
            ("{{ 1 | tojson(sort_keys=true) }}", &["sort_keys"]),
            ("{{ 1 | tojson(ensure_ascii=true) }}", &["ensure_ascii"]),
            ("{{ 1 | tojson(indent=17) }}", &["indent=17"]),
            ("{% include 'other' %}", &["other"]),
        ] {
            let text = refusal(source);
            for word in words.iter().chain(&["chat_template.jinja", "correct the template"]) {
                assert!(text.contains(word), "{source}: {text}");
            }
        }
    }

    #[test]
    fn a_template_without_an_end_meets_a_limit() {
        let steps = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
        assert!(refusal(steps).contains("10000000 steps"), "{}", refusal(steps));
        let depth = "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}";
        assert!(refusal(depth).contains("recursion limit"), "{}", refusal(depth));
        let bytes = "{% set text = 'x' * 1000000 %}{% for a in range(100) %}{{ text }}{% endfor %}";
        assert!(refusal(bytes).contains("67108864 bytes"), "{}", refusal(bytes));
    }

    #[test]
    fn no_messages_and_roles_that_are_no_words_are_refused() {
        let source = "{{ '<|' ~ messages[0].role ~ '|>' }}";
        assert_eq!(render(source, &[Message::new("ipython-2_x", "")]).expect("render"), "<|ipython-2_x|>");
        assert!(matches!(render(source, &[]), Err(ChatError::NoMessages)));
        for role in ["", "user|><|system", "us er", "\u{fc}ser", &"r".repeat(65)] {
            let error = render(source, &[Message::new(role, "")]).expect_err(role);
            assert!(matches!(error, ChatError::Role(_)) && error.to_string().contains("is not a word"), "{error}");
        }
    }
}
