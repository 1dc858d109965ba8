//! Stop strings: an answer ends before any of them, wherever token borders fall.

/// Holds back text that may be the start of a stop string.
#[derive(Debug)]
pub(crate) struct StopStrings {
    stops: Vec<String>,
    held: String,
    met: Option<String>,
}

/// What may be shown now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Released {
    Text(String),
    /// The text before a stop string, which was met.
    Stopped(String),
}

impl StopStrings {
    /// Empty strings stop nothing.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new(), met: None }
    }

    pub(crate) fn push(&mut self, text: &str) -> Released {
        self.held.push_str(text);
        let places = self.stops.iter().filter_map(|stop| Some((self.held.find(stop)?, stop)));
        if let Some((at, stop)) = places.min_by_key(|(at, _)| *at) {
            self.met = Some(stop.clone());
            self.held.truncate(at);
            return Released::Stopped(std::mem::take(&mut self.held));
        }
        let keep_from = self
            .held
            .char_indices()
            .map(|(at, _)| at)
            .find(|&at| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..])))
            .unwrap_or(self.held.len());
        let kept = self.held.split_off(keep_from);
        Released::Text(std::mem::replace(&mut self.held, kept))
    }

    /// The stop string that was met.
    pub(crate) fn met(&self) -> Option<&str> {
        self.met.as_deref()
    }

    /// What was held back when no more comes.
    pub(crate) fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], portions: &[&str]) -> (String, bool) {
        let mut stop = StopStrings::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut shown = String::new();
        for portion in portions {
            match stop.push(portion) {
                Released::Text(text) => shown.push_str(&text),
                Released::Stopped(text) => return (shown + &text, true),
            }
        }
        (shown + &stop.finish(), false)
    }

    #[test]
    fn stops_across_portions_and_shows_what_was_no_stop() {
        assert_eq!(run(&["END"], &["one E", "N", "D two"]), ("one ".into(), true));
        assert_eq!(run(&["END"], &["one E", "N", "X two"]), ("one ENX two".into(), false));
        assert_eq!(run(&["b", "ab"], &["xxab"]), ("xx".into(), true));
        assert_eq!(run(&["aab"], &["aa", "ab"]), ("a".into(), true));
        assert_eq!(run(&[""], &["text"]), ("text".into(), false));
        assert_eq!(run(&["日本"], &["こ日", "光日本"]), ("こ日光".into(), true));
    }
}
