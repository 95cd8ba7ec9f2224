//! Owns: the place of a value within a body, as messages name it: `messages[2].content[0].type`.
//! Must not know: what stands there.
//! On failure: cannot fail. It is text only where something is wrong, so a good body costs no allocation.

use std::fmt;

/// A place: a field or an item, within another place.
#[derive(Clone, Copy)]
pub(super) struct Path<'p> {
    within: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Field(&'p str),
    Item(usize),
}

// === impl Path ===

impl<'p> Path<'p> {
    /// A field of the body itself.
    pub(super) const fn new(field: &'p str) -> Self {
        Self { within: None, step: Step::Field(field) }
    }

    /// A field of the object at this place.
    pub(super) const fn field(&'p self, name: &'p str) -> Self {
        Self { within: Some(self), step: Step::Field(name) }
    }

    /// An item of the array at this place.
    pub(super) const fn item(&'p self, index: usize) -> Self {
        Self { within: Some(self), step: Step::Item(index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(within) = self.within {
            within.fmt(f)?;
        }
        match (self.step, self.within) {
            (Step::Item(index), _) => write!(f, "[{index}]"),
            (Step::Field(name), Some(_)) => write!(f, ".{name}"),
            (Step::Field(name), None) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_it_is_reached() {
        let messages = Path::new("messages");
        let message = messages.item(2);
        let content = message.field("content");
        assert_eq!(content.item(0).field("type").to_string(), "messages[2].content[0].type");
        assert_eq!(messages.to_string(), "messages");
    }
}
