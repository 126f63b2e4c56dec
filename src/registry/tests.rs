//! Tests of the registry.

use super::*;
use crate::audit::format::event::AgentStatus;

/// A registry with the effect of `events`.
fn book(events: Vec<Event>) -> Registry {
    let registry = Registry::new();
    for event in events {
        registry.apply(&Record { at: Timestamp(1), by: None, event });
    }
    registry
}

fn team() -> Principal {
    "team:a".parse().expect("principal")
}

/// A change of an agent's status.
fn stands(agent: &str, status: AgentStatus) -> Event {
    Event::AgentStatus { agent: agent.parse().expect("name"), status, reason: "test".to_owned() }
}

/// Applies `events`, then checks whether `agent` may act.
#[track_caller]
fn check(events: Vec<Event>, agent: &str, expect: Option<Code>) {
    let token = TokenId([1; 32]);
    let answer = book(events).may_act(&agent.parse().expect("name"), &team(), [&token]);
    assert_eq!(answer.err().map(|no| no.code), expect);
}

#[test]
fn an_unknown_agent_may_act() {
    check(vec![], "a/b", None);
}

#[test]
fn a_standing_covers_everything_below_it() {
    check(vec![stands("a/b", AgentStatus::Quarantined)], "a/b/c", Some(Code::AgentQuarantined));
    check(vec![stands("a/b/c", AgentStatus::Quarantined)], "a/b", None);
    check(
        vec![stands("a/b", AgentStatus::Suspended), stands("a/b", AgentStatus::Active)],
        "a/b",
        None,
    );
}

#[test]
fn a_namespace_covers_all_its_agents_and_a_principal_all_that_acts_for_it() {
    let all = |status| Event::NamespaceStatus {
        namespace: "a".to_owned(),
        status,
        reason: "test".to_owned(),
    };
    check(vec![all(AgentStatus::Suspended)], "a/never-seen/child", Some(Code::AgentSuspended));
    check(vec![all(AgentStatus::Suspended)], "ab/c", None);
    check(vec![all(AgentStatus::Quarantined), all(AgentStatus::Active)], "a/b", None);
    check(
        vec![
            stands("a/b", AgentStatus::Suspended),
            all(AgentStatus::Suspended),
            all(AgentStatus::Active),
        ],
        "a/b",
        Some(Code::AgentSuspended),
    );
    let one =
        |status| Event::PrincipalStatus { principal: team(), status, reason: "test".to_owned() };
    check(vec![one(AgentStatus::Suspended)], "x/y", Some(Code::PrincipalSuspended));
    check(vec![one(AgentStatus::Suspended), one(AgentStatus::Active)], "x/y", None);
}

#[test]
fn a_revoked_token_is_refused() {
    let revoked = Event::TokenRevoked {
        token: TokenId([1; 32]),
        jti: "x".to_owned(),
        agent: "a/b".parse().expect("name"),
        reason: "lost".to_owned(),
    };
    check(vec![revoked], "a/b", Some(Code::TokenRevoked));
}

#[test]
fn a_class_is_inherited() {
    let event = Event::AgentRegistered {
        agent: "a/b".parse().expect("name"),
        principal: None,
        class: "fast".to_owned(),
    };
    let registry = book(vec![event]);
    assert_eq!(&*registry.class(&"a/b/c".parse().expect("name")), "fast");
    assert_eq!(&*registry.class(&"a/x".parse().expect("name")), DEFAULT_CLASS);
}

#[test]
fn a_revoked_handle_stays_so_when_its_principal_is_forgotten() {
    let handle = HandleId([9; 32]);
    let (agent, principal) = (
        || "acme/a".parse().expect("agent"),
        || "user:ada".parse::<Principal>().expect("principal"),
    );
    let set = || Event::HandleSet {
        handle,
        token: "t".to_owned(),
        id: TokenId([1; 32]),
        agent: agent(),
        principal: principal(),
        until: None,
    };
    let registry =
        book(vec![set(), Event::HandleRevoked { handle, agent: agent(), reason: "x".to_owned() }]);
    registry.remove_principal(&principal());
    assert!(registry.handle(&handle).is_none());
    // The second event is the same that `adopt` of the same file would record.
    registry.apply(&Record { at: Timestamp(2), by: None, event: set() });
    let refused = registry
        .may_act(&agent(), &team(), &[TokenId([1; 32])])
        .map(|_| ())
        .map_err(|refusal| refusal.code);
    assert_eq!(refused, Err(Code::HandleRevoked));
}
