//! Server-sent events from bytes that come in any pieces (HTML Living Standard, section 9.2).
//!
//! Left out: `id` and `retry`, which are for going on after a break; a reply that broke is over.

/// The longest event: an honest one is a few hundred bytes.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// Empty where it has no name.
    pub(crate) name: String,
    pub(crate) data: String,
}

/// What is no stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadStream {
    TooLong,
    NotUtf8,
}

impl BadStream {
    pub(crate) fn reason(self) -> String {
        match self {
            Self::TooLong => format!("an event has more than {MAX_EVENT_BYTES} bytes"),
            Self::NotUtf8 => "an event is not UTF-8".to_owned(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct SseReader {
    line: Vec<u8>,
    /// Whether the last byte was a CR, after which a LF ends no other line.
    after_cr: bool,
    is_begun: bool,
    name: String,
    data: String,
    has_data: bool,
}

impl SseReader {
    /// Takes bytes and adds the events that they complete.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        events: &mut Vec<SseEvent>,
    ) -> Result<(), BadStream> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (part, rest) = match end {
                Some(at) => (&bytes[..at], Some(&bytes[at..])),
                None => (bytes, None),
            };
            if self.line.len() + self.data.len() + part.len() > MAX_EVENT_BYTES {
                return Err(BadStream::TooLong);
            }
            self.line.extend_from_slice(part);
            let Some(rest) = rest else { return Ok(()) };
            self.after_cr = rest[0] == b'\r';
            bytes = &rest[1..];
            let line = std::mem::take(&mut self.line);
            if let Some(event) = self.line(&line)? {
                events.push(event);
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<SseEvent>, BadStream> {
        let mut line = std::str::from_utf8(line).map_err(|_| BadStream::NotUtf8)?;
        if !std::mem::replace(&mut self.is_begun, true) {
            line = line.trim_start_matches('\u{feff}');
        }
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            let has_data = std::mem::take(&mut self.has_data);
            return Ok(has_data.then_some(SseEvent { name, data }));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // A comment has an empty field; others are not for us.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = "\u{feff}: hello\r\ndata: {\"a\":\"日本\"}\r\n\r\nevent: error\rdata:x\rdata: y\r\r\
                          retry: 3\nid\ndata\n\nevent: lost\n\ndata: [DONE]\n\ndata: cut";

    fn read<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<SseEvent> {
        let (mut reader, mut events) = (SseReader::default(), Vec::new());
        parts.for_each(|part| reader.push(part, &mut events).unwrap());
        events
    }

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn f37_lines_may_end_in_any_way_and_events_split_at_any_byte() {
        let expected = [
            event("", "{\"a\":\"日本\"}"),
            event("error", "x\ny"),
            event("", ""),
            event("", "[DONE]"),
        ];
        let bytes = STREAM.as_bytes();
        assert_eq!(read([bytes].into_iter()), expected);
        assert_eq!(read(bytes.chunks(1)), expected);
        for at in 0..bytes.len() {
            assert_eq!(read([&bytes[..at], &bytes[at..]].into_iter()), expected, "{at}");
        }
    }

    #[test]
    fn f38_a_line_without_end_is_refused_before_it_fills_the_memory() {
        let (mut reader, mut events) = (SseReader::default(), Vec::new());
        let part = vec![b'x'; 1 << 20];
        let n_taken = (0..100).take_while(|_| reader.push(&part, &mut events).is_ok()).count();
        assert_eq!(n_taken, 4);
        let mut reader = SseReader::default();
        let many = "data: x\n".repeat(1 << 20);
        let refused = (0..100).any(|_| reader.push(many.as_bytes(), &mut events).is_err());
        assert!(refused && events.is_empty());
        let mut reader = SseReader::default();
        assert_eq!(reader.push(b"data: \xff\n", &mut events), Err(BadStream::NotUtf8));
    }

    proptest! {
        #[test]
        fn f37_any_bytes_in_any_pieces_are_the_same_stream(
            text in "(data: ?[a-z:]{0,3}|event: ?[a-z]{0,2}|:[a-z]|\r|\n|\r\n){0,24}",
            size in 1_usize..9,
        ) {
            prop_assert_eq!(read(text.as_bytes().chunks(size)), read([text.as_bytes()].into_iter()));
        }
    }
}
