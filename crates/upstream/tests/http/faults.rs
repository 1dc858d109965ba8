//! What engines do wrong: a reply is whole, or has failed, and was never begun twice.

use std::sync::{Arc, Mutex};

use rapport_types::{
    Caller, Event, FinishReason, Generate, GenerateError, Message, Reader, Readiness, Usage,
};
use rapport_upstream::{Secret, Upstream, UpstreamConfig};
use serde_json::{Value, json};

use crate::bad_server::{
    Act, BadServer, LAST_CHUNK, STREAM, Script, chunk, finish, good, piece, whole,
};
use crate::{ask, events, open, text};

/// What counts as a hang: long beside what an honest answer takes on a busy machine.
const HANG_MS: u64 = 2_000;

/// The head of a stream, and these parts.
fn stream(parts: &[Vec<u8>]) -> Act {
    Act::Send([STREAM.to_vec(), parts.concat()].concat())
}

fn failure(events: &[Event]) -> &GenerateError {
    match events.last() {
        Some(Event::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn outcome(events: &[Event]) -> &rapport_types::Outcome {
    match events.last() {
        Some(Event::Finished(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

/// What one engine makes of these scripts, and how often it was asked.
fn told(scripts: impl IntoIterator<Item = Script>) -> (Vec<Event>, usize) {
    let server = BadServer::start("other", scripts);
    let upstream = open(&[&server.url], |limits| {
        (limits.first_byte_ms, limits.idle_ms, limits.max_tries) = (HANG_MS, HANG_MS, 2);
    });
    let events = events(&upstream, ask("hi"));
    (events, server.asked().len())
}

#[test]
fn a_good_engine_is_told_of_in_order_with_usage_and_build() {
    let (events, n_asked) = told([good(&["Hel", "lo"])]);
    assert_eq!((text(&events).as_str(), n_asked), ("Hello", 1));
    assert!(matches!(events[0], Event::Started { seed: 1, .. }), "{events:?}");
    let outcome = outcome(&events);
    let usage = Usage { prompt_tokens: 3, completion_tokens: 2, ..Usage::default() };
    assert_eq!((outcome.reason, outcome.usage), (FinishReason::Stop, usage));
    assert!(outcome.build.engine.ends_with("/openai"), "{}", outcome.build);
}

#[test]
fn f37_a_stream_may_come_byte_by_byte_and_without_its_last_words() {
    let Some(Act::Send(bytes)) = good(&["日", "本"]).pop() else { panic!() };
    assert_eq!(text(&told([vec![Act::Dribble(bytes)]]).0), "日本");
    let bare = stream(&[piece("yes"), finish(), LAST_CHUNK.to_vec()]);
    let (events, _) = told([vec![bare]]);
    assert_eq!(text(&events), "yes");
    // Nobody told how many tokens there were: pieces are counted.
    assert_eq!(outcome(&events).usage, Usage { completion_tokens: 1, ..Usage::default() });
}

#[test]
fn f37_a_hang_before_the_first_byte_is_tried_again_and_then_told() {
    let hang = || vec![Act::AwaitClose];
    let silent = || vec![stream(&[]), Act::AwaitClose];
    for scripts in [[hang(), hang()], [silent(), silent()]] {
        let (events, n_asked) = told(scripts);
        assert!(matches!(failure(&events), GenerateError::Unavailable { .. }), "{events:?}");
        assert_eq!((events.len(), n_asked), (1, 2));
    }
    let (events, n_asked) = told([hang(), good(&["well"])]);
    assert_eq!((text(&events).as_str(), n_asked), ("well", 2));
}

#[test]
fn f37_what_breaks_after_the_first_byte_has_failed_and_is_not_begun_again() {
    let said = || stream(&[piece("one "), piece("two")]);
    let garbled = |event: &str| vec![stream(&[piece("one "), piece("two"), chunk(event)])];
    for script in [
        // Hangs, dies, and ends too early in good order.
        vec![said(), Act::AwaitClose],
        vec![said()],
        vec![said(), Act::Send(LAST_CHUNK.to_vec())],
        garbled("data: {\"choices\": [\n\n"),
        garbled("data: <html>oops</html>\n\n"),
        garbled("event: error\ndata: {\"error\":{\"message\":\"out of memory\"}}\n\n"),
        garbled("data: {\"error\":{\"message\":\"out of memory\"}}\n\n"),
        garbled("data: \u{fffd}\n\ndata: [DONE]\n\n"),
        garbled("data: [DONE]\n\n"),
    ] {
        let (events, n_asked) = told([script, good(&["never"])]);
        assert!(matches!(failure(&events), GenerateError::Internal { .. }), "{events:?}");
        assert_eq!((text(&events).as_str(), n_asked), ("one two", 1));
    }
    // Nor elsewhere.
    let (first, second) = (
        BadServer::start("other", [vec![said()], vec![said()]]),
        BadServer::start("other", [vec![said()], vec![said()]]),
    );
    let upstream = open(&[&first.url, &second.url], |_| {});
    let events = events(&upstream, ask("hi"));
    assert!(matches!(failure(&events), GenerateError::Internal { .. }));
    assert_eq!(first.asked().len() + second.asked().len(), 1);
}

#[test]
fn f37_another_replica_answers_where_one_cannot() {
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
    for script in [
        vec![Act::Send(whole(500, "", "{}"))],
        vec![Act::Send(whole(429, "Retry-After: 7\r\n", "{}"))],
        vec![Act::Send(page.as_bytes().to_vec())],
        vec![],
        vec![Act::AwaitClose],
    ] {
        let scripts = || vec![script.clone(); 4];
        let bad = BadServer::start("other", scripts());
        let well = BadServer::start("other", vec![good(&["well"]); 8]);
        let upstream = open(&[&bad.url, &well.url], |limits| limits.first_byte_ms = HANG_MS);
        for number in 0..8 {
            let events = events(&upstream, ask(&format!("conversation {number}")));
            assert_eq!(text(&events), "well", "{events:?}");
        }
        assert!(!bad.asked().is_empty(), "some conversations belong there");
        assert_eq!(well.asked().len(), 8);
    }
}

#[test]
fn an_engine_with_one_fault_is_asked_again() {
    let (events, n_asked) = told([vec![Act::Send(whole(500, "", "{}"))], good(&["well"])]);
    assert_eq!((text(&events).as_str(), n_asked), ("well", 2));
}

#[test]
fn a_busy_engine_says_when_to_come_back() {
    for (status, header, retry_after_s) in
        [(429, "Retry-After: 7\r\n", 7), (429, "", 1), (503, "retry-after: 9\r\n", 9)]
    {
        let (events, n_asked) = told([vec![Act::Send(whole(status, header, "{}"))]]);
        assert_eq!(failure(&events), &GenerateError::Busy { retry_after_s });
        assert_eq!(n_asked, 1, "it is not asked at once again");
    }
}

#[test]
fn what_the_engine_refuses_is_told_to_whoever_asked_and_keys_are_not() {
    let long = json!({ "error": {
        "type": "exceed_context_size_error", "message": "too long", "n_prompt_tokens": 9, "n_ctx": 4,
    } });
    let wrong = json!({ "error": { "message": "no such token", "param": "logit_bias" } });
    let refused = |status: u16, body: &Value| {
        let server =
            BadServer::start("other", [vec![Act::Send(whole(status, "", &body.to_string()))]]);
        let mut config = UpstreamConfig::new(&server.url);
        config.replicas[0].key = Some(Secret::new("hush-key".to_owned()));
        let upstream = Upstream::open(config).unwrap();
        let events = events(&upstream, ask("hi"));
        let asked = server.asked();
        assert_eq!(asked.len(), 1);
        assert!(asked[0].head.contains("hush-key") && !format!("{upstream:?}").contains("hush"));
        let error = failure(&events).clone();
        assert!(!error.to_string().contains("hush"));
        error
    };
    let too_long = GenerateError::PromptTooLong { prompt_tokens: 9, context_tokens: 4 };
    assert_eq!(refused(400, &long), too_long);
    let GenerateError::InvalidRequest { field, reason } = refused(400, &wrong) else { panic!() };
    assert_eq!((field, reason.as_str()), ("logit_bias", "no such token"));
    let told = json!({ "error": { "message": "bad key hush-key" } });
    assert!(matches!(refused(401, &told), GenerateError::Unavailable { .. }));
    assert!(matches!(refused(404, &told), GenerateError::Unavailable { .. }));
}

#[test]
fn f37_an_engine_that_fails_is_left_alone_until_one_request_finds_it_well() {
    let fault = || vec![Act::Send(whole(500, "", "{}"))];
    let server =
        BadServer::start("other", [fault(), fault(), fault(), good(&["well"]), good(&["well"])]);
    let upstream = open(&[&server.url], |limits| (limits.max_tries, limits.open_ms) = (1, HANG_MS));
    for _ in 0..3 {
        assert!(matches!(
            failure(&events(&upstream, ask("hi"))),
            GenerateError::Unavailable { .. }
        ));
    }
    let start = |upstream: &Upstream| rapport_types::reply(upstream, ask("hi"));
    let refused = start(&upstream).unwrap_err();
    assert!(
        matches!(refused, GenerateError::Unavailable { retry_after_s: 1..=2, .. }),
        "{refused}"
    );
    assert_eq!(server.asked().len(), 3, "it was not asked");
    let away = upstream.readiness();
    assert!(matches!(away, Readiness::Away { retry_after_s: 1..=2 }), "{away:?}");
    assert_eq!(upstream.check_ready(), Ok(()), "who asks it finds out");
    // Its rest ends by itself.
    let reply = until(|| start(&upstream).ok());
    assert_eq!(text(&reply.collect::<Vec<_>>()), "well");
    assert_eq!(upstream.readiness(), Readiness::Ready);
    assert_eq!(text(&events(&upstream, ask("hi"))), "well");
}

#[test]
fn an_engine_that_says_that_it_is_well_is_asked_again_before_its_rest_ends() {
    let fault = || vec![Act::Send(whole(500, "", "{}"))];
    let server = BadServer::start("other", [fault(), fault(), fault(), good(&["well"])]);
    let upstream = open(&[&server.url], |limits| {
        (limits.max_tries, limits.open_ms, limits.max_open_ms) = (1, 3_600_000, 3_600_000);
        limits.health_ms = 20;
    });
    // Three faults, refusals, and then the reply that found it well.
    until(|| events_or_refusal(&upstream).filter(|events| text(events) == "well"));
}

/// Tries until there is something.
fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6_000 {
        if let Some(found) = attempt() {
            return found;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    panic!("it never came");
}

fn events_or_refusal(upstream: &Upstream) -> Option<Vec<Event>> {
    rapport_types::reply(upstream, ask("hi")).ok().map(Iterator::collect)
}

#[test]
fn f21_a_reply_that_is_stopped_or_not_read_closes_its_connection() {
    let endless = || vec![stream(&[piece("one ")]), Act::AwaitClose];
    let server = BadServer::start("other", [endless(), endless(), vec![Act::AwaitClose]]);
    let upstream = open(&[&server.url], |_| {});
    let mut reply = rapport_types::reply(&upstream, ask("hi")).unwrap();
    let control = reply.control();
    let mut seen = Vec::new();
    for event in reply.by_ref() {
        if matches!(event, Event::Text { .. }) {
            control.stop();
        }
        seen.push(event);
    }
    assert_eq!(outcome(&seen).reason, FinishReason::Cancelled);
    assert_eq!(outcome(&seen).usage.completion_tokens, 1, "what was written counts");
    server.await_close();
    // A reader that goes away.
    let last = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&last);
    let sink = Box::new(move |event| {
        *kept.lock().unwrap() = Some(event);
        Reader::Gone
    });
    upstream.start(ask("hi"), sink).unwrap();
    server.await_close();
    // One that waits for its first byte.
    server.asked();
    let reply = rapport_types::reply(&upstream, ask("hi")).unwrap();
    until(|| server.asked().pop());
    drop(reply);
    server.await_close();
}

#[test]
fn f38_an_event_without_end_is_cut_off() {
    let long = vec![Act::Send(STREAM.to_vec()), Act::Send(chunk(&"x".repeat(100 << 20)))];
    let (events, n_asked) = told([long]);
    assert!(matches!(failure(&events), GenerateError::Internal { .. }), "{events:?}");
    assert_eq!(n_asked, 1);
}

#[test]
fn accounts_have_salts_of_their_own_and_conversations_their_replica() {
    let servers: Vec<_> =
        (0..2).map(|_| BadServer::start("vllm", vec![good(&["well"]); 32])).collect();
    let urls: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();
    let upstream = open(&urls, |_| {});
    let asked = |caller: u8, turns: &[&str]| {
        let mut request = ask(turns[0]);
        request.caller = Caller { key: [caller; 32], ..Caller::default() };
        for pair in turns[1..].chunks(2) {
            request.messages.push(Message::assistant(pair[0]));
            request.messages.push(Message::user(pair[1]));
        }
        assert_eq!(text(&events(&upstream, request)), "well");
        let asked = servers.iter().map(BadServer::asked).enumerate();
        let mut asked = asked.flat_map(|(idx, asked)| asked.into_iter().map(move |one| (idx, one)));
        asked.next().unwrap()
    };
    let (home, first) = asked(1, &["hello"]);
    assert_eq!(first.path, "/v1/chat/completions");
    let salt = first.body["cache_salt"].as_str().unwrap();
    assert!(salt.len() >= 32 && !salt.contains("0101"), "it is not the account's key: {salt}");
    for n_turns in 1..5 {
        let turns = [&["hello"][..], &["well", "and then?"].repeat(n_turns)].concat();
        let (idx, next) = asked(1, &turns);
        assert_eq!((idx, next.body["cache_salt"].as_str()), (home, Some(salt)));
    }
    assert_ne!(asked(2, &["hello"]).1.body["cache_salt"], salt);
    assert_eq!(
        asked(0, &["hello"]).1.body["cache_salt"],
        Value::Null,
        "the person at this machine"
    );
    let elsewhere = (0..20).any(|number| asked(1, &[&format!("chat {number}")]).0 != home);
    assert!(elsewhere);
    assert_eq!(first.body["chat_template_kwargs"]["enable_thinking"], false);
    assert_eq!((&first.body["top_k"], &first.body["temperature"]), (&json!(-1), &json!(0.7)));
}
