use super::*;

#[test]
fn a_process_says_who_it_is_without_being_told() {
    let resource = Resource::detect();
    let text = |key: &str| resource.get(key).and_then(OwnedValue::as_str).unwrap_or_else(|| panic!("{key}"));

    let executable = text("process.executable.name");
    assert!(executable.starts_with("trace_core"), "{executable}");
    assert_eq!(text("service.name"), format!("unknown_service:{executable}"));
    assert_eq!(resource.service_name(), text("service.name"));
    assert_eq!(text("service.instance.id").len(), 36);
    assert_eq!(text("telemetry.sdk.language"), "rust");
    assert_eq!(text("telemetry.sdk.name"), "trace-core");
    assert_eq!(text("telemetry.sdk.version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(resource.get("process.pid"), Some(&i64::from(std::process::id()).into()));
    assert_eq!(text("process.runtime.name"), "rustc");
    assert!(text("process.runtime.version").starts_with("1."));
    assert!(text("process.runtime.description").starts_with("rustc 1."));
    assert!(!text("host.name").is_empty());
}

#[test]
fn an_attribute_stands_once_and_the_last_value_wins() {
    let resource = Resource::empty().with("a", 1).with("b", true).with("a", ["x", "y"]);
    assert_eq!(resource.iter().len(), 2);
    assert_eq!(resource.get("a"), Some(&["x", "y"].into()));
    assert_eq!(resource.to_string(), r#"a=["x", "y"] b=true"#);
}

#[test]
fn merging_keeps_what_stands_and_fills_what_is_missing_or_empty() {
    let primary: Resource = [("kept", "primary"), ("empty", "")].into_iter().collect();
    let secondary: Resource = [("kept", "no"), ("empty", "filled"), ("added", "too")].into_iter().collect();
    let merged = primary.or(secondary);
    assert_eq!(merged.to_string(), "kept=primary empty=filled added=too");
}

#[test]
fn a_resource_without_a_name_is_an_unknown_service() {
    assert!(Resource::empty().is_empty());
    assert_eq!(Resource::empty().service_name(), "unknown_service");
    assert_eq!(Resource::empty().with("service.name", 7).service_name(), "unknown_service");
}
