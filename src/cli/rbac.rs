//! `graylane rbac`: the Roles that an environment needs, as `kubectl apply` takes them.

use clap::{Args, ValueEnum};
use graylane_tasks::environment::Site;
use graylane_tasks::rights::{Extra, Subject, objects, yaml};
use serde_json::json;

use super::{Context, Failure, Output, json as to_json, no_key, operator_files, print};

/// What `rbac` takes.
#[derive(Debug, Args)]
pub(crate) struct RbacArgs {
    /// The environment
    environment: String,
    /// The ServiceAccount that gets the rights
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "graylane/graylane", group = "subject")]
    service_account: String,
    /// The user that gets them instead, as its certificate or its provider names it
    #[arg(long, value_name = "NAME", group = "subject")]
    user: Option<String>,
    /// The group that gets them instead
    #[arg(long, value_name = "NAME", group = "subject")]
    group: Option<String>,
    /// What is used besides lanes and production; may be given more than once
    #[arg(long, value_enum, value_delimiter = ',')]
    with: Vec<With>,
}

/// What not everybody uses.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum With {
    /// `job` checks
    Jobs,
    /// `graylane environment adopt`
    Adopt,
    /// The namespace's label in `graylane environment check --fix`
    Fix,
}

pub(crate) fn run(context: &Context, args: &RbacArgs) -> Result<u8, Failure> {
    let (bundle, broken) = operator_files(context, &no_key());
    let site =
        Site::load(&bundle, &args.environment).map_err(|why| Failure::refused(why).problems(broken))?;
    let subject = match (&args.user, &args.group) {
        (Some(user), _) => Subject::User(user.clone()),
        (None, Some(group)) => Subject::Group(group.clone()),
        (None, None) => {
            let (namespace, name) = args.service_account.split_once('/').ok_or_else(|| {
                Failure::refused(format!("`{}` is no ServiceAccount", args.service_account))
                    .hint("write NAMESPACE/NAME")
            })?;
            Subject::ServiceAccount(namespace.to_owned(), name.to_owned())
        }
    };
    let extras: Vec<Extra> = args
        .with
        .iter()
        .map(|with| match with {
            With::Jobs => Extra::Jobs,
            With::Adopt => Extra::Adopt,
            With::Fix => Extra::Fix,
        })
        .collect();
    match context.output {
        Output::Text => print(yaml(&site, &subject, &extras).trim_end()),
        Output::Json => {
            let items = objects(&site, &subject, &extras);
            print(&to_json(&json!({ "apiVersion": "v1", "kind": "List", "items": items })));
        }
    }
    Ok(0)
}
