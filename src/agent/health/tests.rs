//! Probes of each kind against real servers, also such that never answer.

use std::time::Duration;
use std::time::Instant;

use remuda_wire::v1::ExecProbe;
use remuda_wire::v1::GrpcProbe;
use remuda_wire::v1::HttpProbe;
use remuda_wire::v1::Probe;
use remuda_wire::v1::ProbeResult;
use remuda_wire::v1::TcpProbe;
use remuda_wire::v1::probe::Action;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clean::Target;
use crate::clean::to_wire;
use crate::host::trial::Bench;
use crate::host::trial::NEVER;
use crate::host::trial::lives;
use crate::host::trial::pid_in;

async fn probe(bench: &Bench, action: Action) -> ProbeResult {
    let probe = Probe { name: "p".to_owned(), action: Some(action), failure_threshold: 1, ..Probe::default() };
    run(bench, &probe).await
}

async fn run(bench: &Bench, probe: &Probe) -> ProbeResult {
    let target = Target { roots: bench.roots.clone(), run: 3 };
    let begun = Instant::now();
    let result = super::probe(probe, &target, &CancellationToken::new()).await;
    assert!(begun.elapsed() < NEVER);
    assert!(result.detail.len() <= 256 && result.took.is_some() && result.name == "p");
    result
}

/// A server that answers every connection with these words, or never if there are none.
async fn server(words: Option<&'static str>) -> u32 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Some(words) = words {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(words.as_bytes()).await;
            } else {
                open.push(stream);
            }
        }
    });
    port.into()
}

async fn closed_port() -> u32 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port().into()
}

#[tokio::test]
async fn tcp() {
    let bench = Bench::without(&[]);
    let tcp = |port| Action::Tcp(TcpProbe { host: String::new(), port });
    assert!(probe(&bench, tcp(server(None).await)).await.passed);
    let refused = probe(&bench, tcp(closed_port().await)).await;
    assert!(!refused.passed && refused.detail.contains("refused"), "{refused:?}");
    assert!(probe(&bench, tcp(70_000)).await.detail.contains("no port"));
}

#[tokio::test]
async fn http() {
    let bench = Bench::without(&[]);
    let http = |port, path: &str| Action::Http(HttpProbe { host: "localhost".into(), port, path: path.into() });
    let cases = [
        (Some("HTTP/1.1 200 OK\r\n\r\n"), true, "200"),
        (Some("HTTP/1.1 399 Odd\r\n\r\n"), true, "399"),
        (Some("HTTP/1.1 503 Busy\r\n\r\n"), false, "503"),
        (Some("SSH-2.0-x\r\n"), false, "no HTTP answer"),
        (None, false, "http probe hung"),
    ];
    for (words, passed, detail) in cases {
        let result = probe(&bench, http(server(words).await, "/health")).await;
        assert!(result.passed == passed && result.detail.contains(detail), "{words:?}: {result:?}");
    }
    let result = probe(&bench, http(server(None).await, "/ HTTP/1.1\r\nX: y")).await;
    assert!(result.detail.contains("is no path"), "{result:?}");
}

#[tokio::test]
async fn grpc() {
    let bench = Bench::without(&[]);
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("up", tonic_health::ServingStatus::Serving).await;
    reporter.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().into();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let grpc = |port, service: &str| Action::Grpc(GrpcProbe { host: String::new(), port, service: service.into() });
    for (service, passed, detail) in
        [("up", true, "SERVING"), ("down", false, "NOT_SERVING"), ("none", false, "NotFound")]
    {
        let result = probe(&bench, grpc(port, service)).await;
        assert!(result.passed == passed && result.detail.contains(detail), "{service}: {result:?}");
    }
    let hung = probe(&bench, grpc(server(None).await, "")).await;
    assert!(!hung.passed && hung.detail.contains("grpc probe hung"), "{hung:?}");
    assert!(!probe(&bench, grpc(closed_port().await, "")).await.passed);
}

#[tokio::test]
async fn exec() {
    for bench in Bench::with_and_without_groups() {
        let exec = |script: String| Action::Exec(ExecProbe { command: vec!["sh".into(), "-c".into(), script] });
        assert!(probe(&bench, exec("true".into())).await.passed);
        let failed = probe(&bench, exec("echo why; exit 3".into())).await;
        assert!(!failed.passed && failed.detail.contains('3') && failed.detail.contains("why"), "{failed:?}");
        let pid = bench.outside.join("pid");
        let hung = probe(&bench, exec(format!("sleep 1000 & echo $! > {}; wait", pid.display()))).await;
        assert!(!hung.passed && hung.detail.contains("exec probe hung"), "{hung:?}");
        assert!(!lives(pid_in(&pid).await), "what it had started was killed");
        let missing = Action::Exec(ExecProbe { command: vec!["/nowhere/x".into()] });
        assert!(!probe(&bench, missing).await.passed);
        assert!(bench.roots.groups().unwrap().is_empty());
    }
}

#[tokio::test]
async fn thresholds_count_in_a_row() {
    let bench = Bench::without(&["cgroup"]);
    let tries = bench.outside.join("tries");
    // Fails, succeeds, fails, succeeds from then on.
    let script = format!("echo >> {0}; n=$(wc -l < {0}); [ $n = 2 ] || [ $n -gt 3 ]", tries.display());
    let exec = |script: String| Some(Action::Exec(ExecProbe { command: vec!["sh".into(), "-c".into(), script] }));
    let mut planned = Probe {
        name: "p".to_owned(),
        action: exec(script),
        period: Some(to_wire(Duration::from_millis(1))),
        success_threshold: 2,
        failure_threshold: 2,
        ..Probe::default()
    };
    assert!(run(&bench, &planned).await.passed);
    assert_eq!(std::fs::read_to_string(&tries).unwrap().lines().count(), 5);
    planned.action = exec("false".to_owned());
    planned.failure_threshold = 0;
    assert!(!run(&bench, &planned).await.passed);
    planned.action = None;
    assert!(run(&bench, &planned).await.detail.contains("does not know"));
}
