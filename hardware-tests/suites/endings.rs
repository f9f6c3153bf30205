//! Calls that end early: by deadline or by token, in time, and with the scorer as good as before.

use std::time::{Duration, Instant};

use triscore::{Call, CancelToken, CompileOptions, ErrorKind, Health};

use crate::{Target, inputs};

/// A run of seconds ends soon after its deadline or its token says so; the next call is answered.
pub(crate) fn deadline_and_cancel(target: &Target) -> Vec<String> {
    let mut failures = Vec::new();
    let mut expect = |what: &str, ok: bool, got: String| {
        if !ok {
            failures.push(format!("{what}: {got}"));
        }
    };
    // Loading scores nothing here: one run takes seconds.
    let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..Default::default() };
    let Some(model) = target.model("tiny/slow.onnx") else { return vec!["no slow model".to_owned()] };
    let scorer = match target.backend.compile(&model, std::slice::from_ref(&target.device), &options) {
        Ok(scorer) => scorer,
        Err(e) => return vec![format!("does not compile: {e}")],
    };
    let inputs = inputs::rows(scorer.signature().inputs(), 1, 1);

    let late = Call::new().with_timeout(Duration::ZERO);
    let got = scorer.score(&inputs, &late).map(|_| ()).map_err(|e| e.kind());
    expect("a deadline that has passed", got == Err(ErrorKind::DeadlineExceeded), format!("{got:?}"));

    for round in 0..3 {
        let start = Instant::now();
        let call = Call::new().with_timeout(Duration::from_millis(50));
        let got = scorer.score(&inputs, &call).map(|_| ()).map_err(|e| e.kind());
        let took = start.elapsed();
        expect(
            "a deadline of 50 ms",
            got == Err(ErrorKind::DeadlineExceeded),
            format!("round {round}: {got:?}"),
        );
        expect("a deadline of 50 ms", took < Duration::from_millis(800), format!("ended after {took:?}"));
    }

    let token = CancelToken::new();
    let start = Instant::now();
    let got = std::thread::scope(|s| {
        let call = Call::new().with_cancel(token.clone());
        let (scorer, inputs) = (&scorer, &inputs);
        let run = s.spawn(move || scorer.score(inputs, &call).map(|_| ()).map_err(|e| e.kind()));
        // A second call waits for the only lane, and its token frees it too.
        let waiting = Call::new().with_cancel(token.clone());
        let wait = s.spawn(move || scorer.score(inputs, &waiting).map(|_| ()).map_err(|e| e.kind()));
        std::thread::sleep(Duration::from_millis(30));
        token.cancel();
        [run.join().unwrap(), wait.join().unwrap()]
    });
    expect("a cancelled call", got == [Err(ErrorKind::Cancelled); 2], format!("{got:?}"));
    expect(
        "a cancelled call",
        start.elapsed() < Duration::from_millis(800),
        format!("{:?}", start.elapsed()),
    );

    // What was ended leaves nothing behind: the next run goes on until its own deadline.
    expect("health afterwards", scorer.health() == Health::Ready, format!("{:?}", scorer.health()));
    let start = Instant::now();
    let call = Call::new().with_timeout(Duration::from_millis(200));
    let got = scorer.score(&inputs, &call).map(|_| ()).map_err(|e| e.kind());
    expect("the next call", got == Err(ErrorKind::DeadlineExceeded), format!("{got:?}"));
    let took = start.elapsed();
    expect("the next call", took >= Duration::from_millis(200), format!("ended early, after {took:?}"));
    failures
}
