//! Services, from the first deployment to the delete.

use triscore::registry::{
    CandidateMark, CandidateStage, KeyKind, Keys, NewModel, ProcessStamp, Secret, ServiceFilter, ServiceKeys,
    ServiceSpec, ServiceState, ServiceStatus, ServiceUpdate,
};
use triscore::{ErrorKind, ScoreError};

use super::{labels, model_ref, scene};

fn spec(name: &str, models: &[&str]) -> ServiceSpec {
    ServiceSpec {
        model_ids: models.iter().map(|m| (*m).to_owned()).collect(),
        deployment_config: serde_json::json!({"computeType": "local", "port": 32267}),
        ..ServiceSpec::new(name, "Local", "/somewhere")
    }
}

#[test]
fn a_service_lives() {
    let (_dir, workspace, folder) = scene();
    workspace.register(&NewModel::from_path("m", &folder)).unwrap();
    let full = ServiceSpec {
        description: Some("d".into()),
        tags: labels(&[("t", "1")]),
        properties: labels(&[("p", "1")]),
        ..spec("my-service", &["m:1", "local.onnx:0"])
    };
    let first = workspace.insert_service(&full, Keys::default()).unwrap();
    assert_eq!((first.status.state, &first.spec), (ServiceState::Transitioning, &full));
    assert_eq!(workspace.show_service("my-service").unwrap(), first);
    assert_eq!(workspace.insert_service(&full, Keys::default()).unwrap_err().kind(), ErrorKind::Conflict);

    let running = ServiceStatus {
        state: ServiceState::Healthy,
        reason: None,
        port: Some(32267),
        process: Some(ProcessStamp::current()),
        device: Some("cpu: 2 cores".into()),
        error_kind: None,
    };
    workspace.set_service_status("my-service", first.generation, &running).unwrap();
    workspace
        .set_service_state("my-service", first.generation, ServiceState::Unhealthy, Some("slow"))
        .unwrap();
    let now = workspace.show_service("my-service").unwrap();
    assert_eq!(
        now.status,
        ServiceStatus { state: ServiceState::Unhealthy, reason: Some("slow".into()), ..running.clone() }
    );
    assert!(now.status.process.unwrap().is_alive());

    let update = ServiceUpdate {
        add_tags: labels(&[("t", "2")]),
        add_properties: labels(&[("q", "")]),
        ..Default::default()
    };
    let updated = workspace.update_service("my-service", &update).unwrap();
    assert_eq!(updated, workspace.show_service("my-service").unwrap());
    assert_eq!((updated.spec.tags["t"].as_str(), updated.spec.properties.len()), ("2", 2));
    assert_eq!(workspace.update_service("my-service", &update).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(
        workspace.update_service("my-service", &ServiceUpdate::default()).unwrap_err().kind(),
        ErrorKind::BadInput
    );

    // The model stays for as long as the service does.
    let e = workspace.delete(&model_ref("m:1")).unwrap_err();
    assert!(e.kind() == ErrorKind::Conflict && e.message().contains("'my-service'"), "{e}");
    workspace.delete_service("my-service").unwrap();
    assert_eq!(workspace.delete_service("my-service").unwrap_err().kind(), ErrorKind::NotFound);
    workspace.delete(&model_ref("m:1")).unwrap();
}

#[test]
fn an_old_process_does_not_speak_for_a_new_deployment() {
    let (_dir, workspace, _) = scene();
    let old = workspace.insert_service(&spec("abc", &[]), Keys::default()).unwrap();
    let new = workspace.replace_service(&spec("abc", &[]), Keys::default()).unwrap();
    assert!(new.generation > old.generation && new.created_time == old.created_time);
    let failed = ServiceStatus::new(ServiceState::Failed).with_reason("killed");
    let e = workspace.set_service_status("abc", old.generation, &failed).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict);
    assert!(workspace.set_service_state("abc", old.generation, ServiceState::Failed, None).is_err());
    assert_eq!(workspace.show_service("abc").unwrap().status.state, ServiceState::Transitioning);
    // Nor for one of its name that came after it was deleted.
    workspace.delete_service("abc").unwrap();
    let e = workspace.set_service_status("abc", new.generation, &failed).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    let newest = workspace.insert_service(&spec("abc", &[]), Keys::default()).unwrap();
    assert!(newest.generation > new.generation);
    assert!(workspace.set_service_status("abc", old.generation, &failed).is_err());
    workspace.set_service_status("abc", newest.generation, &failed).unwrap();
    assert_eq!(workspace.show_service("abc").unwrap().status, failed);
}

#[test]
fn services_that_cannot_be() {
    let (_dir, workspace, folder) = scene();
    workspace.register(&NewModel::from_path("m", &folder)).unwrap();
    for (spec, kind, word) in [
        (spec("Abc", &["m:1"]), ErrorKind::BadInput, "not a service name"),
        (ServiceSpec { tags: labels(&[("", "")]), ..spec("abc", &[]) }, ErrorKind::BadInput, "needs a key"),
        (spec("abc", &["m:1", "m:2"]), ErrorKind::NotFound, "'m' has version 1"),
        (spec("abc", &["n:1"]), ErrorKind::NotFound, "'n:1' is not registered"),
        (spec("abc", &["m"]), ErrorKind::BadInput, "needs its version"),
        (spec("abc", &[":0"]), ErrorKind::BadInput, "not a model name"),
    ] {
        for e in [
            workspace.insert_service(&spec, Keys::default()).unwrap_err(),
            workspace.replace_service(&spec, Keys::default()).unwrap_err(),
        ] {
            assert!(e.kind() == kind && e.message().contains(word), "{e}");
        }
    }
    assert!(workspace.list_services(&ServiceFilter::default()).unwrap().is_empty());
    workspace.insert_service(&spec("my-service", &[]), Keys::default()).unwrap();
    workspace.insert_service(&spec("another", &["m:1"]), Keys::default()).unwrap();
    let e = workspace.show_service("my_service").unwrap_err();
    assert!(e.message().ends_with("did you mean 'my-service'?"), "{e}");
    let names = |filter| {
        workspace.list_services(&filter).unwrap().into_iter().map(|s| s.spec.name).collect::<Vec<_>>()
    };
    assert_eq!(names(ServiceFilter::default()), ["another", "my-service"]);
    assert_eq!(names(ServiceFilter { model_name: Some("m".into()), ..Default::default() }), ["another"]);
}

#[test]
fn keys_are_kept_and_not_shown() {
    let (_dir, workspace, _) = scene();
    let mut with_keys = spec("abc", &[]);
    with_keys.deployment_config["keys"] = serde_json::json!({"primaryKey": "hunter2"});
    let record = workspace.insert_service(&with_keys, Keys::default()).unwrap();
    assert_eq!(record.spec, spec("abc", &[]), "keys in the configuration are not stored with it");
    let first = workspace.service_keys("abc").unwrap();
    let shown = format!(
        "{record:?} {} {:?}",
        record.to_json(),
        workspace.list_services(&ServiceFilter::default()).unwrap()
    );
    for key in [&first.primary, &first.secondary] {
        assert!(!shown.contains(key.expose()), "{shown}");
    }
    // A new deployment does not lock its clients out.
    workspace.replace_service(&spec("abc", &[]), Keys::default()).unwrap();
    assert!(workspace.service_keys("abc").unwrap().accept(first.primary.expose().as_bytes()));
    let second = workspace.regenerate_service_key("abc", KeyKind::Primary, None).unwrap();
    assert!(
        !second.accept(first.primary.expose().as_bytes())
            && second.accept(first.secondary.expose().as_bytes())
    );
    workspace.regenerate_service_key("abc", KeyKind::Secondary, Some(Secret::new("mine").unwrap())).unwrap();
    assert_eq!(workspace.service_keys("abc").unwrap().secondary.expose(), "mine");
    let set = ServiceKeys { primary: Secret::new("open-sesame").unwrap(), secondary: Secret::generate() };
    workspace.replace_service(&spec("abc", &[]), Keys::Set(set)).unwrap();
    assert!(workspace.service_keys("abc").unwrap().accept(b"open-sesame"));
    let stored = || {
        String::from_utf8_lossy(&std::fs::read(workspace.root().join("registry.sqlite")).unwrap())
            .contains("open-sesame")
    };
    assert!(stored());
    workspace.delete_service("abc").unwrap();
    assert_eq!(workspace.service_keys("abc").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!stored(), "what is deleted is not in the file any more");
}

/// A process takes a service on once, and only the deployment that it was started for.
#[test]
fn a_service_is_claimed_once() {
    let (_dir, workspace, folder) = scene();
    workspace.register(&NewModel::from_path("m", &folder)).unwrap();
    let me = ProcessStamp::current();
    let claim = |generation| workspace.claim_service("my-service", generation, me).map_err(|e| e.kind());
    assert_eq!(claim(1), Err(ErrorKind::NotFound));
    let first = workspace.insert_service(&spec("my-service", &["m:1"]), Keys::default()).unwrap();
    let second = workspace.replace_service(&spec("my-service", &["m:1"]), Keys::default()).unwrap();
    assert_eq!(claim(first.generation), Err(ErrorKind::Conflict));
    claim(second.generation).unwrap();
    let claimed = workspace.show_service("my-service").unwrap();
    assert_eq!((claimed.status.process, claimed.status.state), (Some(me), ServiceState::Transitioning));
    assert_eq!(claim(second.generation), Err(ErrorKind::Conflict), "it has a process");

    // What was seen before the claim is not what is there now: a correction from then changes nothing.
    let failed = ServiceState::Failed;
    assert_eq!(workspace.correct_service(&second, failed, "gone").unwrap(), claimed);
    let corrected = workspace.correct_service(&claimed, failed, "gone").unwrap();
    assert_eq!(corrected, workspace.show_service("my-service").unwrap());
    assert_eq!((corrected.status.state, corrected.status.reason.as_deref()), (failed, Some("gone")));
    assert_eq!((corrected.status.process, corrected.generation), (Some(me), second.generation));

    let third = workspace.replace_service(&spec("my-service", &["m:1"]), Keys::default()).unwrap();
    workspace.correct_service(&third, failed, "interrupted").unwrap();
    assert_eq!(claim(third.generation), Err(ErrorKind::Conflict), "it was given up");
}

/// The next version stands beside the one that serves until it takes its place or is given up.
#[test]
fn a_candidate_takes_its_services_place_or_leaves_it_alone() {
    let (_dir, workspace, folder) = scene();
    for _ in 0..2 {
        workspace.register(&NewModel::from_path("m", &folder)).unwrap();
    }
    let next = ServiceSpec { tags: labels(&[("t", "2")]), ..spec("abc", &["m:2"]) };
    assert_eq!(workspace.put_candidate(&next, Keys::default()).unwrap_err().kind(), ErrorKind::NotFound);
    let old = workspace.insert_service(&spec("abc", &["m:1"]), Keys::default()).unwrap();
    let keys = workspace.service_keys("abc").unwrap();
    for (bad, kind) in [
        (ServiceSpec { model_ids: vec!["m:3".into()], ..next.clone() }, ErrorKind::NotFound),
        (ServiceSpec { tags: labels(&[("", "")]), ..next.clone() }, ErrorKind::BadInput),
    ] {
        assert_eq!(workspace.put_candidate(&bad, Keys::default()).unwrap_err().kind(), kind);
    }

    // Given up: the service is as it was, and says why.
    let candidate = workspace.put_candidate(&next, Keys::default()).unwrap();
    let generation = candidate.generation;
    assert!(generation > old.generation && candidate.stage == CandidateStage::Preparing);
    let now = workspace.show_service("abc").unwrap();
    let mark = CandidateMark { generation, stage: CandidateStage::Preparing };
    assert_eq!((now.candidate, &now.spec, now.generation), (Some(mark), &old.spec, old.generation));
    assert_eq!(workspace.put_candidate(&next, Keys::default()).unwrap_err().kind(), ErrorKind::Conflict);
    let tag = ServiceUpdate { add_tags: labels(&[("x", "")]), ..Default::default() };
    assert_eq!(workspace.update_service("abc", &tag).unwrap_err().kind(), ErrorKind::Conflict);
    let e = workspace.delete(&model_ref("m:2")).unwrap_err();
    assert!(e.kind() == ErrorKind::Conflict && e.message().contains("'abc'"), "{e}");
    assert_eq!(workspace.claim_candidate("abc", old.generation).unwrap(), None, "it is in preparation");
    workspace.offer_candidate("abc", generation).unwrap();
    assert!(workspace.offer_candidate("abc", generation).is_err());
    assert!(workspace.claim_candidate("abc", generation).is_err(), "that is not what serves");
    let claimed = workspace.claim_candidate("abc", old.generation).unwrap().unwrap();
    assert_eq!((claimed.stage, &claimed.spec), (CandidateStage::Starting, &next));
    assert_eq!(workspace.claim_candidate("abc", old.generation).unwrap(), None, "it is taken");
    workspace.fail_candidate("abc", generation, &ScoreError::bad_model("no")).unwrap();
    let now = workspace.show_service("abc").unwrap();
    let failed = now.failed_update.clone().unwrap();
    assert_eq!((failed.generation, failed.kind, &*failed.reason), (generation, ErrorKind::BadModel, "no"));
    assert_eq!((&now.spec, now.generation, now.candidate), (&old.spec, old.generation, None));
    let healthy = ServiceStatus { device: Some("cpu".into()), ..ServiceStatus::new(ServiceState::Healthy) };
    for late in [
        workspace.promote_candidate("abc", generation, &healthy).map(drop),
        workspace.fail_candidate("abc", generation, &ScoreError::internal("late")),
        workspace.offer_candidate("abc", generation),
    ] {
        assert_eq!(late.unwrap_err().kind(), ErrorKind::Conflict);
    }

    // Promoted: it is the service, with the first time and the keys of the old one.
    let generation = workspace.put_candidate(&next, Keys::default()).unwrap().generation;
    assert_eq!(workspace.show_service("abc").unwrap().failed_update, None);
    let new = workspace.promote_candidate("abc", generation, &healthy).unwrap();
    assert_eq!((&new.spec, &new.status, new.generation), (&next, &healthy, generation));
    assert_eq!((new.created_time, new.candidate), (old.created_time, None));
    assert!(workspace.service_keys("abc").unwrap().accept(keys.primary.expose().as_bytes()));
    workspace.delete(&model_ref("m:1")).unwrap();
    assert!(workspace.set_service_state("abc", old.generation, ServiceState::Failed, None).is_err());

    // One that brings keys has them for itself until then; a key that changes meanwhile stays changed.
    let own = ServiceKeys { primary: Secret::new("one").unwrap(), secondary: Secret::new("two").unwrap() };
    let generation = workspace.put_candidate(&next, Keys::Set(own)).unwrap().generation;
    assert_eq!(workspace.service_keys_of("abc", generation).unwrap().primary.expose(), "one");
    assert_eq!(workspace.service_keys("abc").unwrap().primary.expose(), keys.primary.expose());
    let three = Secret::new("three").unwrap();
    workspace.regenerate_service_key("abc", KeyKind::Secondary, Some(three)).unwrap();
    workspace.promote_candidate("abc", generation, &healthy).unwrap();
    let now = workspace.service_keys("abc").unwrap();
    assert_eq!((now.primary.expose(), now.secondary.expose()), ("one", "three"));

    // Dropped without a word; and gone with its service.
    let generation = workspace.put_candidate(&next, Keys::default()).unwrap().generation;
    let seen = |stage| CandidateMark { generation, stage };
    assert!(
        !workspace.drop_candidate("abc", seen(CandidateStage::Waiting)).unwrap(),
        "it was taken on since"
    );
    assert!(workspace.drop_candidate("abc", seen(CandidateStage::Preparing)).unwrap());
    assert_eq!(workspace.show_service("abc").unwrap().candidate, None);
    workspace.put_candidate(&next, Keys::default()).unwrap();
    workspace.delete_service("abc").unwrap();
    assert_eq!(workspace.candidate("abc").unwrap(), None);
    workspace.delete(&model_ref("m:2")).unwrap();
}
