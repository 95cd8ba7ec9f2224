//! Owns: chat templates: compiled once, rendered within bounds.
//! Must not know: tensors, what the messages mean.
//! On failure: closed; a template that is broken is the policy's fault, one that rejects its messages the client's.

use std::io;
use std::sync::Arc;

use ahash::AHashMap;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use parking_lot::Mutex;

/// What most open models were trained with, or understand.
const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
                      {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/// More templates than any fleet names; above it all are compiled anew.
const MAX_TEMPLATES: usize = 256;
/// Instructions of one rendering: a template spends some tens on a message.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat_template";

/// Compiled templates by their text.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    compiled: Mutex<AHashMap<Arc<str>, Arc<Environment<'static>>>>,
}

/// Why there is no prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoPrompt {
    /// The template says what is wrong with the messages
    Rejected(String),
    /// The template itself, or what it does with these messages, is wrong
    Broken(String),
    /// More bytes than the bound
    TooLarge,
}

// === impl Templates ===

impl Templates {
    /// The prompt that a template makes of messages. An empty template is `ChatML`.
    pub(super) fn render(
        &self,
        template: &str,
        messages: Value,
        max_bytes: usize,
    ) -> Result<String, NoPrompt> {
        let source = if template.is_empty() { CHATML } else { template };
        let environment = self.compiled(source).map_err(|error| NoPrompt::Broken(error.to_string()))?;
        let mut written = Bounded { bytes: Vec::new(), left: max_bytes };
        let rendered = environment.get_template(NAME).and_then(|template| {
            let context =
                context! { messages, add_generation_prompt => true, bos_token => "", eos_token => "" };
            template.render_captured_to(context, &mut written).map(drop)
        });
        match rendered {
            Ok(()) => String::from_utf8(written.bytes).map_err(|error| NoPrompt::Broken(error.to_string())),
            Err(error) if error.kind() == ErrorKind::WriteFailure => Err(NoPrompt::TooLarge),
            Err(error) => Err(rejection(&error).unwrap_or_else(|| NoPrompt::Broken(error.to_string()))),
        }
    }

    fn compiled(&self, source: &str) -> Result<Arc<Environment<'static>>, Error> {
        if let Some(environment) = self.compiled.lock().get(source) {
            return Ok(Arc::clone(environment));
        }
        let environment = Arc::new(compile(source)?);
        let mut compiled = self.compiled.lock();
        if compiled.len() >= MAX_TEMPLATES {
            compiled.clear();
        }
        compiled.insert(source.into(), Arc::clone(&environment));
        Ok(environment)
    }
}

/// An environment in which the templates of model hubs mean what they mean in Python.
fn compile(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method_callback);
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build()?);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
    });
    environment.add_template_owned(NAME, source.to_owned())?;
    Ok(environment)
}

/// Marks an error that the template raised by itself.
#[derive(Debug)]
struct Raised;

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("raised by the template")
    }
}

impl std::error::Error for Raised {}

/// The words of a template that rejects its messages.
fn rejection(error: &Error) -> Option<NoPrompt> {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    loop {
        let source = cause.source()?;
        if source.is::<Raised>() {
            let raised = cause.downcast_ref::<Error>()?;
            return Some(NoPrompt::Rejected(raised.detail().unwrap_or_default().to_owned()));
        }
        cause = source;
    }
}

/// Takes so many bytes and then no more.
struct Bounded {
    bytes: Vec<u8>,
    left: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, NoPrompt> {
        let message = |role: &str, content: &str| Value::from_pairs([("role", role), ("content", content)]);
        let messages = Value::from(vec![message("system", " be kind "), message("user", "<hi> & {{ bye }}")]);
        Templates::default().render(template, messages, 1000)
    }

    #[test]
    fn the_default_is_chatml() {
        assert_eq!(
            render("").as_deref(),
            Ok(
                "<|im_start|>system\n be kind <|im_end|>\n<|im_start|>user\n<hi> & {{ bye }}<|im_end|>\n<|im_start|>assistant\n"
            )
        );
    }

    #[test]
    fn templates_of_model_hubs_work() {
        let template = "{%- set ns = namespace(seen=0) -%}
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{- '<<' + message['content'].strip() + '>>' }}
    {%- elif message.role.startswith('u') and tools is not defined %}
        {{- '[INST] ' ~ message['content'] | trim ~ ' [/INST]' }}
    {%- endif %}
    {%- set ns.seen = ns.seen + 1 %}
{%- endfor %}
{{- ns.seen }}{{ eos_token }}{% if messages[-1]['role'] != 'assistant' and not loop %}!{% endif %}";
        assert_eq!(render(template).as_deref(), Ok("<<be kind>>[INST] <hi> & {{ bye }} [/INST]2!"));
        assert_eq!(render("{{ messages | tojson }}").map(|text| text.len() > 10), Ok(true));
    }

    #[test]
    fn a_template_may_reject_its_messages() {
        let nested = "{% macro check(m) %}{% if m.role != 'user' %}{{ raise_exception('roles must alternate') }}\
                      {% endif %}{% endmacro %}{{ check(messages[0]) }}";
        for template in ["{{ raise_exception('roles must alternate') }}", nested] {
            assert_eq!(render(template), Err(NoPrompt::Rejected("roles must alternate".to_owned())));
        }
    }

    #[test]
    fn bounds_hold() {
        assert!(matches!(render("{% for"), Err(NoPrompt::Broken(_))));
        assert!(matches!(render("{{ messages.x.y.z }}"), Err(NoPrompt::Broken(_))));
        let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
        assert!(matches!(render(endless), Err(NoPrompt::Broken(_))));
        assert_eq!(render("{% for a in range(1001) %}x{% endfor %}"), Err(NoPrompt::TooLarge));
        assert_eq!(render("{% for a in range(1000) %}x{% endfor %}").map(|text| text.len()), Ok(1000));
    }

    #[test]
    fn a_template_is_compiled_once_and_the_table_is_bounded() {
        let templates = Templates::default();
        let first = templates.compiled("a");
        assert!(matches!((first, templates.compiled("a")), (Ok(a), Ok(b)) if Arc::ptr_eq(&a, &b)));
        for at in 0..2 * MAX_TEMPLATES {
            assert!(templates.compiled(&at.to_string()).is_ok());
        }
        assert!(templates.compiled.lock().len() <= MAX_TEMPLATES);
    }
}
