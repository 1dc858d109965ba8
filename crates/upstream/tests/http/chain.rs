//! Our own server as the engine: what comes through is what the model said.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::channel;

use rapport_server::{Server, ServerConfig};
use rapport_testkit::{Script, ScriptedEngine};
use rapport_types::{
    CallCount, Event, FinishReason, Generate, GenerateError, Mode, Tool, ToolChoice, Tools,
};
use rapport_upstream::Dialect;

use crate::{ask, events, open, text};

/// A server of this engine; it ends with the test's process.
fn serve(engine: ScriptedEngine) -> (Arc<ScriptedEngine>, String) {
    let engine = Arc::new(engine);
    let (sender, ready) = channel();
    let model = Arc::clone(&engine);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = ServerConfig::new("127.0.0.1:0".parse().unwrap());
            let server = Server::listen(config, model).await.unwrap();
            sender.send(server.address().unwrap()).unwrap();
            server.run(std::future::pending()).await;
        });
    });
    (engine, format!("http://{}", ready.recv().unwrap()))
}

fn weather() -> Tools {
    let tool = Tool {
        name: "weather".to_owned(),
        description: "of a place".to_owned(),
        parameters: r#"{"type":"object"}"#.to_owned(),
    };
    Tools { offered: vec![tool], choice: ToolChoice::Auto, calls: CallCount::Several }
}

#[test]
fn thoughts_words_calls_usage_and_build_come_through() {
    let script = || {
        Script::new().thought("hm ").text("Let ").text("me see.").tool_call(
            "1",
            "weather",
            r#"{"a":1}"#,
        )
    };
    let (engine, url) = serve(ScriptedEngine::answering(move |_| script()));
    let upstream = open(&[&url], |_| {});
    assert_eq!(upstream.dialect(), Dialect::Rapport);
    assert_eq!(upstream.model().context_tokens, engine.model().context_tokens);
    for mode in [Mode::Thinking, Mode::Auto] {
        let mut request = ask("What is the weather in Oslo?");
        (request.mode, request.tools) = (mode, weather());
        let n_before = engine.requests().len();
        let told = events(&upstream, request.clone());
        let direct = events(engine.as_ref(), request.clone());
        assert_eq!(told.len(), direct.len());
        assert_eq!(told[1..told.len() - 1], direct[1..direct.len() - 1]);
        let Event::Started { choice, seed, .. } = &told[0] else { panic!("{told:?}") };
        assert_eq!((choice.mode, *seed), (Mode::Thinking, 1));
        let [Some(Event::Finished(told)), Some(Event::Finished(direct))] =
            [told.last(), direct.last()]
        else {
            panic!("{told:?}")
        };
        assert_eq!(
            (told.reason, told.usage, &told.build),
            (direct.reason, direct.usage, &direct.build)
        );
        assert_eq!(told.timings, direct.timings, "as the engine has taken them");
        // What the engine was asked is what we were asked.
        let (through, directly) = (&engine.requests()[n_before], &request);
        assert_eq!(through.messages, directly.messages);
        assert_eq!(through.mode, directly.mode);
        assert_eq!(through.sampling, directly.sampling);
        assert_eq!((through.max_tokens, &through.tools), (directly.max_tokens, &directly.tools));
    }
}

#[test]
fn salts_reach_the_engine_behind_and_stay_apart() {
    let (engine, url) = serve(ScriptedEngine::answering(|_| Script::answer("well")));
    let upstream = open(&[&url], |_| {});
    for key in [[1; 32], [2; 32], [1; 32]] {
        let mut request = ask("hi");
        request.caller.key = key;
        events(&upstream, request);
    }
    let salts: Vec<_> = engine.requests().iter().map(|asked| asked.caller.cache_salt).collect();
    assert!(salts[0] != [0; 32] && salts[0] != salts[1] && salts[0] == salts[2]);
    assert!(engine.requests().iter().all(|asked| asked.caller.key == [0; 32]));
}

#[test]
fn f21_stop_goes_through_to_the_engine() {
    let (_, url) = serve(ScriptedEngine::answering(|_| Script::new().text("one ").await_stop()));
    let upstream = open(&[&url], |_| {});
    let mut reply = rapport_types::reply(&upstream, ask("hi")).unwrap();
    assert!(reply.by_ref().any(|event| matches!(event, Event::Text { .. })));
    assert!(!metrics(&url).contains("finished_reason=\"abort\"} 1"));
    drop(reply);
    // The script waits for the stop, and fails after some ten seconds without one.
    while !metrics(&url).contains("finished_reason=\"abort\"} 1") {
        assert!(!metrics(&url).contains("finished_reason=\"error\"} 1"), "it was not stopped");
    }
}

fn metrics(url: &str) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn refusals_of_the_engine_behind_come_through_as_what_they_are() {
    let engine = ScriptedEngine::answering(|request| match request.messages[0].content.as_str() {
        "full" => Script::refused(GenerateError::Overloaded),
        "breaks" => Script::new().text("one ").fail(GenerateError::EngineStopped),
        "vanishes" => Script::new().text("one ").vanish(),
        _ => Script::answer("well"),
    });
    let (_, url) = serve(engine.with_context_tokens(5));
    let upstream = open(&[&url], |_| {});
    let failed = |text: &str| match events(&upstream, ask(text)).pop() {
        Some(Event::Failed(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(failed("full"), GenerateError::Busy { retry_after_s: 1 });
    assert!(matches!(failed("breaks"), GenerateError::Internal { .. }));
    assert!(matches!(failed("vanishes"), GenerateError::Internal { .. }));
    let long = failed("one two three four five six seven");
    assert!(matches!(long, GenerateError::InvalidRequest { field: "messages", .. }), "{long}");
    let well = events(&upstream, ask("hi"));
    assert_eq!(text(&well), "well");
    let Some(Event::Finished(outcome)) = well.last() else { panic!() };
    assert_eq!(outcome.reason, FinishReason::Stop);
}
