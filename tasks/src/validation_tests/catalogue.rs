//! The list of mistakes: a sentence, where the lines stand, the lines, and every problem that is told of them.
//!
//! Nothing is checked here; `validation_tests.rs` reads it.

use super::Kind::{AcrossFiles, Cron, Expression, Graph, Structure, Syntax, Type};
use super::Stands::{Alone, Input, Task, Top, Trigger};
use super::{Row, row};

#[rustfmt::skip]
pub(super) const CATALOGUE: &[Row] = &[
    row(Syntax, "a tab as indentation", Alone, "name: x\ntasks:\n\ta: {}\n",
        &["3:1 `\t`: a tab stands where YAML counts blanks [indent with blanks]"]),
    row(Syntax, "a tab inside a block", Alone, "name: x\ntasks:\n  a:\n  \ttype: t\n",
        &["4:3 `\t`: a tab stands where YAML counts blanks [indent with blanks]"]),
    row(Syntax, "a quote that is not closed", Alone, r#"name: "x
tasks:
  a: {}
"#,
        &[r#"1:7 `"`: a quote is not closed (it opens here)"#]),
    row(Syntax, "a single quote that is not closed", Alone, r"name: 'x
tasks:
  a: {}
",
        &["1:7 `'`: a quote is not closed (it opens here)"]),
    row(Syntax, "a bracket that is not closed", Alone, r"name: x
tasks:
  a:
    needs: [b
    type: t
",
        &["4:12 `[`: `[` is not closed (it opens here) [write `]` at its end]"]),
    row(Syntax, "a brace that is not closed", Alone, r"name: x
tasks:
  a: { type: t
",
        &["3:6 `{`: `{` is not closed (it opens here) [write `}` at its end]"]),
    row(Syntax, "a brace too many", Alone, r"name: x
tasks:
  a: { type: t }}
",
        &["3:17 `}`: `}` closes nothing (no bracket is open here)"]),
    row(Syntax, "a brace closed by a bracket", Alone, r"name: x
tasks:
  a: { type: t ]
",
        &["3:6 `{`: `{` is closed by `]` (it opens here)"]),
    row(Syntax, "a comma missing in a flow map", Alone, r"name: x
tasks:
  a: { type: t needs: [b] }
",
        &["3:21 `:`: a comma is missing (expected `,` or `}` before this)"]),
    row(Syntax, "a second colon", Alone, "name: release: x\n",
        &["1:14 `:`: a second `:` on one line (a value with `: ` in it needs quotes) [put the value in quotes]"]),
    row(Syntax, "a missing blank after a colon", Alone, r"name:x
tasks:
  a: {}
",
        &["1:1 `name:x`: this line is no `key: value` (a `:` and a blank are missing)"]),
    row(Syntax, "a line without a colon", Alone, r"name: x
tasks
  a: {}
",
        &["2:1 `tasks`: this line is no `key: value` (a `:` and a blank are missing)"]),
    row(Syntax, "a line without a colon in the midst", Alone, r"name: x
tasks:
  a:
    type
    needs: [b]
",
        &["4:5 `type`: this line is no `key: value` (a `:` and a blank are missing)"]),
    row(Syntax, "a key that is indented less", Alone, r"name: x
tasks:
    a:
      type: t
   b:
      type: t
",
        &["5:4 `b`: the indentation of this line fits no line above (it has 3 blanks)"]),
    row(Syntax, "a key that is indented more", Alone, r"name: x
  description: y
",
        &["2:3 `description`: a key is indented too far (line 1 has a value already)"]),
    row(Syntax, "a list item indented wrongly", Alone, r"needs:
  - a
 - b
",
        &["3:2 `-`: the indentation of this line fits no line above (it has 1 blank)"]),
    row(Syntax, "a list item among keys", Alone, r"name: x
- a
",
        &["2:1 `-`: a list item cannot stand among keys"]),
    row(Syntax, "an unquoted expression in flow style", Alone, r"name: x
tasks:
  a: { with: { tag: ${{ inputs.tag }} } }
",
        &[r#"3:21 `${{ inputs.tag }}`: an expression must be quoted here (braces and colons mean something to YAML) [put the expression in quotes: "${{ ... }}"]"#]),
    row(Syntax, "an unquoted expression in a flow list", Alone, r"name: x
tasks:
  a:
    list: [${{ inputs.tag }}]
",
        &[r#"4:12 `${{ inputs.tag }}`: an expression must be quoted here (braces and colons mean something to YAML) [put the expression in quotes: "${{ ... }}"]"#]),
    row(Syntax, "an unquoted expression with a colon", Alone, r"name: x
tasks:
  a:
    when: ${{ inputs.a ? 'x': 'y' }}
",
        &[r#"4:11 `${{ inputs.a ? 'x': 'y' }}`: an expression must be quoted here (braces and colons mean something to YAML) [put the expression in quotes: "${{ ... }}"]"#]),
    row(Syntax, "an unquoted map literal", Alone, r"name: x
tasks:
  a:
    when: ${{ {'a': 1} }}
",
        &[r#"4:11 `${{ {'a': 1} }}`: an expression must be quoted here (braces and colons mean something to YAML) [put the expression in quotes: "${{ ... }}"]"#]),
    row(Syntax, "a value that begins with a percent sign", Alone, "name: %x\n",
        &["1:7 `%x`: a value cannot begin with `%` [put the value in quotes]"]),
    row(Syntax, "a value that begins with an at sign", Alone, "name: @x\n",
        &["1:7 `@x`: a value cannot begin with `@` [put the value in quotes]"]),
    row(Syntax, "a value that begins with a backtick", Alone, "name: `x`\n",
        &["1:7 ``x``: a value cannot begin with ``` [put the value in quotes]"]),
    row(Syntax, "a value that begins with a star", Alone, "name: *x\n",
        &["1:7 `*x`: an alias has no anchor (a value that begins with `*` is an alias) [put the value in quotes]"]),
    row(Syntax, "a value that begins with an exclamation mark", Alone, "name: !inputs.keep\n",
        &["1:7 `!inputs.keep`: a YAML tag is not supported here (a value that begins with `!` is a tag) [put the value in quotes]"]),
    row(Syntax, "text after a quoted value", Alone, r#"name: "x" y
"#,
        &["1:11 `y`: text stands after a closed quote (the value has ended before this) [put the whole value in one kind of quotes, and double those inside it]"]),
    row(Syntax, "an unknown escape", Alone, r#"name: "a\d"
"#,
        &[r"1:9 `\d`: an unknown escape in double quotes (`\` begins an escape here) [write `\\`, or put the value in single quotes]"]),
    row(Syntax, "two documents", Alone, r"name: x
---
name: y
",
        &["2:1 `---`: the file holds several documents (a second document begins) [a workflow is one document: remove the `---`, or use one file each]"]),
    row(Syntax, "a key that is empty", Alone, r"name: x
? : y
",
        &["2:3 `:`: a key must be a text (expected a name before the colon)"]),
    row(Syntax, "a key that is a list", Alone, "[a, b]: x\n",
        &["1:1 `[`: a key must be a text (expected a name before the colon)"]),
    row(Syntax, "a key that is a map", Alone, "{a: b}: x\n",
        &["1:1 `{`: a key must be a text (expected a name before the colon)"]),
    row(Syntax, "a merge of a text", Alone, r"a: x
<<: y
",
        &["2:5 `y`: `<<` takes the keys of a map (expected a map, or an alias of one)"]),
    row(Syntax, "a number that is infinite", Alone, r"a: .inf
b: 1e999
",
        &["1:4 `.inf`: `.inf` is not a number that can be used (expected a finite number) [a text is put in quotes]"]),
    row(Syntax, "an alias to itself", Alone, "a: &a [*a]\n",
        &["1:8 `*a`: an alias refers to itself [write the value out]"]),
    row(Syntax, "NUL", Alone, "name: a\0b\n",
        &["1:8 `\0`: the character U+0000 cannot stand in YAML [save the file as plain UTF-8 text]"]),
    row(Syntax, "binary", Alone, "name: !!binary aGVsbG8\n",
        &["1:7 `!!binary`: a YAML tag is not supported here (a value that begins with `!` is a tag) [put the value in quotes]"]),
    row(Syntax, "a block scalar with a wrong indicator", Alone, r"name: |x
  a
",
        &["1:7 `|x`: text stands beside the mark of a block (the text begins on the next line)"]),
    row(Syntax, "a block scalar indented less", Alone, r"a:
  name: |
  text
",
        &["3:3 `text`: this line is no `key: value` (a `:` and a blank are missing)"]),
    row(Structure, "only a comment", Alone, "# nothing\n",
        &["the file is empty [a workflow has a `name` and `tasks`; see docs/workflow-reference.md]"]),
    row(Structure, "a text", Alone, "just a text\n",
        &["1:1 `just a text`: the workflow must be a map, not a text (expected a map)"]),
    row(Structure, "a list", Alone, r"- a
- b
",
        &["1:1 `-`: the workflow must be a map, not a list (expected a map)"]),
    row(Structure, "a key of the workflow that is mistyped", Top, "timeot: 2h\n",
        &["2:1 `timeot`: unknown key `timeot` (did you mean `timeout`?) [the workflow knows `concurrency`, `description`, `inputs`, `name`, `tasks`, `timeout`, `triggers` and `undo`]"]),
    row(Structure, "a key of the workflow that there is not", Top, "on: push\n",
        &["2:1 `on`: unknown key `on` (not a key of the workflow) [the workflow knows `concurrency`, `description`, `inputs`, `name`, `tasks`, `timeout`, `triggers` and `undo`]"]),
    row(Structure, "a workflow without tasks and without a name", Alone, "description: nothing yet\n",
        &[
            "1:1 `description`: the workflow lacks `name` (`name` is required here)",
            "1:1 `description`: the workflow lacks `tasks` (`tasks` is required here)",
        ]),
    row(Structure, "tasks that are empty", Alone, r"name: x
tasks: {}
",
        &["2:1 `tasks`: `tasks` must not be empty"]),
    row(Structure, "tasks that are left out after the colon", Alone, r"name: x
tasks:
",
        &["2:1 `tasks`: `tasks` must be a map, not empty (expected a map)"]),
    row(Structure, "a name that is no name", Alone, r"name: my workflow
tasks:
  a: { type: mse-gray-offline, with: { environment: production, tag: gray } }
",
        &["1:7 `my workflow`: `name` cannot be `my workflow` (a name has letters, digits, `-` and `_`, and begins with a letter)"]),
    row(Structure, "a name that YAML reads as a number", Alone, r"name: 1.20
tasks:
  a: { type: mse-gray-offline, with: { environment: production, tag: gray } }
",
        &["1:7 `1.20`: `name` must be a text, not a number (a name has letters, digits, `-` and `_`, and begins with a letter)"]),
    row(Structure, "a task without a type", Task, r"  s-untyped:
    with: { environment: production }
",
        &["16:3 `s-untyped`: `s-untyped` lacks `type` (`type` is required here)"]),
    row(Structure, "a task that is empty", Task, "  s-empty:\n",
        &["16:3 `s-empty`: `s-empty` must be a map, not empty (expected a map)"]),
    row(Structure, "a task that is a text", Task, "  s-text: deploy\n",
        &["16:11 `deploy`: `s-text` must be a map, not a text (expected a map) [write `{ type: deploy }`]"]),
    row(Structure, "a key of a task that is mistyped", Task, r"  s-need:
    type: mse-gray-offline
    need: [deploy]
    with: { environment: production, tag: gray }
",
        &["18:5 `need`: unknown key `need` (did you mean `needs`?) [`s-need` knows `needs`, `on_failure`, `retry`, `timeout`, `type`, `when` and `with`]"]),
    row(Structure, "a key of `with` that is mistyped", Task, r"  s-drian:
    type: mse-gray-offline
    with: { environment: production, tag: gray, drian: 4s }
",
        &["18:49 `drian`: unknown key `drian` (did you mean `drain`?) [a `mse-gray-offline` task knows `drain`, `environment`, `expired`, `on_missing`, `services` and `tag`]"]),
    row(Structure, "a key of `with` that stands one level too high", Task, r"  s-level:
    type: mse-gray-offline
    environment: production
    with: { environment: production, tag: gray }
",
        &["18:5 `environment`: unknown key `environment` (`environment` stands below `with`)"]),
    row(Structure, "a key that `with` requires", Task, r"  s-lacks:
    type: mse-gray-offline
    with: { environment: production }
",
        &["18:5 `with`: the lane is not named (add `tag`, or `expired: true` for every lane whose time is up)"]),
    row(Structure, "an offline that says two things", Task, r"  s-two-things:
    type: mse-gray-offline
    with: { environment: production, tag: gray, expired: true }
",
        &[
            "18:49 `expired`: `tag` and `expired` say two things (keep `tag` or `expired`)",
            "18:49 `expired`: lanes of environment `production` never expire (write `ttl` in its file: without it nothing is taken down for its age)",
        ]),
    row(Structure, "an offline of a part of what has expired", Task, r"  s-part:
    type: mse-gray-offline
    with: { environment: production, expired: true, services: [spring-a] }
",
        &[
            "18:38 `expired`: lanes of environment `production` never expire (write `ttl` in its file: without it nothing is taken down for its age)",
            "18:53 `services`: expired lanes go as a whole (leave `services` out)",
        ]),
    row(Structure, "a required key that is mistyped, which is one mistake", Task, r"  s-mistyped:
    type: mse-gray-offline
    with: { environment: production, tga: gray }
",
        &["18:38 `tga`: unknown key `tga` (did you mean `tag`?) [a `mse-gray-offline` task knows `drain`, `environment`, `expired`, `on_missing`, `services` and `tag`]"]),
    row(Structure, "a `with` that is missing", Task, r"  s-without:
    type: mse-gray-offline
",
        &[
            "16:3 `s-without`: a `mse-gray-offline` task lacks `environment` (`environment` is required here)",
        ]),
    row(Structure, "a key of a nested map that is mistyped", Task, r"  s-nested:
    type: generic-verify
    with:
      environment: production
      tag: gray
      checks:
        - { name: a, http: { path: /a, expect: { body_match: A } } }
",
        &["22:50 `body_match`: unknown key `body_match` (did you mean `body_matches`?) [`expect` knows `body_excludes`, `body_matches`, `json`, `latency` and `status`]"]),
    row(Structure, "a key that stands twice", Task, r"  s-twice:
    type: mse-gray-offline
    with: { environment: production, tag: gray }
    type: mse-gray-deploy
",
        &["19:5 `type`: duplicate key `type` (`type` is already set in line 17) [keep one of the two]"]),
    row(Structure, "a task that stands twice", Task, r"  deploy:
    type: mse-gray-offline
",
        &["16:3 `deploy`: duplicate key `deploy` (`deploy` is already set in line 9) [keep one of the two]"]),
    row(Structure, "a task whose name is no name", Task, r"  s task:
    type: mse-gray-offline
    with: { environment: production, tag: gray }
",
        &["16:3 `s task`: `s task` cannot be the name of a task (a name has letters, digits, `-` and `_`, and begins with a letter)"]),
    row(Structure, "a task whose name is not ASCII, and columns are characters", Task, "  发布: { type: mse-gray-offline, with: { environment: production, tag: gray }, 重试: 3 }\n",
        &[
            "16:3 `发布`: `发布` cannot be the name of a task (a name has letters, digits, `-` and `_`, and begins with a letter)",
            "16:79 `重试`: unknown key `重试` (not a key of `发布`) [`发布` knows `needs`, `on_failure`, `retry`, `timeout`, `type`, `when` and `with`]",
        ]),
    row(Structure, "a task type that is mistyped", Task, r"  s-type:
    type: mse-gray-deplyo
    with: {}
",
        &["17:11 `mse-gray-deplyo`: unknown task type `mse-gray-deplyo` (did you mean `mse-gray-deploy`?) [the types are `approval`, `generic-verify`, `mse-gray-deploy`, `mse-gray-offline` and `prod-deploy`]"]),
    row(Structure, "a task type that there is not", Task, r"  s-helm:
    type: helm
",
        &["17:11 `helm`: unknown task type `helm` [the types are `approval`, `generic-verify`, `mse-gray-deploy`, `mse-gray-offline` and `prod-deploy`]"]),
    row(Structure, "a check that says nothing", Task, r"  s-check:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: nothing }] }
",
        &["18:66 `nothing`: the check does not say what it looks at (add one of `http`, `job`, `prometheus`, `rollout` and `command`)"]),
    row(Structure, "a check that says two things", Task, r"  s-checks:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: two, rollout: {}, http: { path: /a } }] }
",
        &["18:66 `two`: the check looks at two things (keep one of `http` and `rollout`)"]),
    row(Structure, "no checks at all", Task, r"  s-none:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [] }
",
        &["18:49 `checks`: `checks` must not be empty"]),
    row(Structure, "a lane without services", Task, r"  s-lane:
    type: mse-gray-deploy
    with: { environment: production, tag: gray }
",
        &["18:5 `with`: the lane has no service (add `images` or `services`)"]),
    row(Structure, "a service in `images` and in `services`", Task, r"  s-both:
    type: mse-gray-deploy
    with:
      environment: production
      tag: gray
      images: { spring-a: 'a:2' }
      services: { spring-a: {} }
",
        &["22:19 `spring-a`: `spring-a` stands in `images` and in `services` (`images` is short for `services`: keep one)"]),
    row(Structure, "the same of a prod-deploy", Task, r"  s-prod:
    type: prod-deploy
    with:
      environment: production
      images: { spring-a: 'a:2' }
      services: { spring-a: {} }
",
        &["21:19 `spring-a`: `spring-a` stands in `images` and in `services` (`images` is short for `services`: keep one)"]),
    row(Structure, "an entry with two ways in", Task, r"  s-entry:
    type: mse-gray-deploy
    with:
      environment: production
      tag: gray
      images: { spring-a: 'a:2' }
      entry: { service: spring-a, weight: 5, header: { name: x-user-id, value: '1' } }
",
        &["22:7 `entry`: `entry` says 2 ways in (one of `header`, `cookie` and `weight`) [a header or cookie is never weighted by the gateway]"]),
    row(Structure, "an entry with no way in", Task, r"  s-shut:
    type: mse-gray-deploy
    with:
      environment: production
      tag: gray
      images: { spring-a: 'a:2' }
      entry: { service: spring-a }
",
        &["22:7 `entry`: `entry` does not say which requests enter (add `header`, `cookie` or `weight`)"]),
    row(Structure, "a choice without options", Input, "  s_choice: { type: choice }\n",
        &["6:21 `choice`: a choice lists its values with `options`"]),
    row(Structure, "a map that does not say of what", Input, "  s_map: { type: map }\n",
        &["6:18 `map`: a map says what it holds with `of`"]),
    row(Structure, "an input that has a default and is required", Input, "  s_required: { type: string, default: x, required: true }\n",
        &["6:53 `true`: an input that has a default is never missing: remove one of the two"]),
    row(Structure, "an input without a type", Input, "  s_typeless: { default: x }\n",
        &["6:3 `s_typeless`: `s_typeless` lacks `type` (`type` is required here)"]),
    row(Structure, "an input that is a bare type", Input, "  s_bare: string\n",
        &["6:11 `string`: `s_bare` must be a map, not a text (expected a map) [write `{ type: string }`]"]),
    row(Type, "a duration that is prose", Top, "timeout: 2 hours\n",
        &["2:10 `2 hours`: `timeout` cannot be `2 hours` (a duration is a number and a unit, as in `90s`, `10m` or `1h30m`)"]),
    row(Type, "a choice of the workflow that is mistyped", Top, "concurrency: { group: release, policy: qeue }\n",
        &["2:40 `qeue`: `policy` cannot be `qeue` (did you mean `queue`?) [one of `queue`, `latest`, `reject`, `replace` and `allow`]"]),
    row(Type, "a text that is a list", Top, "description: [a, b]\n",
        &["2:1 `description`: `description` must be a text, not a list (expected a text)"]),
    row(Type, "an input type that is mistyped", Input, "  y_type: { type: strng }\n",
        &["6:19 `strng`: `type` cannot be `strng` (did you mean `string`?) [one of `string`, `integer`, `number`, `boolean`, `choice`, `list`, `map` and `object`]"]),
    row(Type, "a default of another type", Input, "  y_default: { type: integer, default: many }\n",
        &["6:40 `many`: input `y_default` must be an integer, not a text"]),
    row(Type, "a default that is none of the options", Input, "  y_option: { type: choice, options: [up, down], default: upp }\n",
        &["6:59 `upp`: input `y_option` cannot be `upp`: one of `up` and `down`; did you mean `up`?"]),
    row(Type, "an option that YAML reads as a number", Input, "  y_options: { type: choice, options: [1.20, 'on'] }\n",
        &[r#"6:40 `1.20`: item 1 of `options` must be a text, not a number (expected a text) [`1.20` is a number; write "1.20"]"#]),
    row(Type, "a default that does not match the pattern", Input, "  y_match: { type: string, pattern: '[a-z]+', default: A1 }\n",
        &["6:56 `A1`: input `y_match` cannot be `A1`: it must match [a-z]+"]),
    row(Type, "a pattern that is none", Input, "  y_pattern: { type: string, pattern: '[a-z' }\n",
        &["6:39 `'[a-z'`: not a regular expression: unclosed character class"]),
    row(Type, "a default whose entry has another type", Input, "  y_entry: { type: map, of: string, default: { a: x, b: 1 } }\n",
        &["6:57 `1`: input `y_entry.b` must be a text, not an integer"]),
    row(Type, "`needs` as a text", Task, r"  y-needs:
    type: mse-gray-offline
    needs: deploy
    with: { environment: production, tag: gray }
",
        &["18:12 `deploy`: `needs` must be a list, not a text (expected a list) [write `[deploy]`]"]),
    row(Type, "`needs` as a map", Task, r"  y-map:
    type: mse-gray-offline
    needs: { deploy: true }
    with: { environment: production, tag: gray }
",
        &["18:5 `needs`: `needs` must be a list, not a map (expected a list)"]),
    row(Type, "`with` as a list", Task, r"  y-list:
    type: mse-gray-offline
    with:
      - environment: production
",
        &["18:5 `with`: `with` must be a map, not a list (expected a map)"]),
    row(Type, "`with` as a text", Task, r"  y-with:
    type: mse-gray-offline
    with: production
",
        &["18:11 `production`: `with` must be a map, not a text (expected a map)"]),
    row(Type, "`with` that is null", Task, r"  y-null:
    type: mse-gray-offline
    with:
",
        &["18:5 `with`: `with` must be a map, not empty (expected a map)"]),
    row(Type, "a value that is null", Task, r"  y-tag:
    type: mse-gray-offline
    with: { environment: production, tag: }
",
        &["18:38 `tag`: `tag` must be a text, not empty (expected a text)"]),
    row(Type, "a tag that YAML reads as a number", Task, r"  y-number:
    type: mse-gray-offline
    with: { environment: production, tag: 12 }
",
        &[r#"18:43 `12`: `tag` must be a text, not an integer (expected a text) [`12` is an integer; write "12"]"#]),
    row(Type, "a number in quotes", Task, r"  y-samples:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, samples: '20', rollout: {} }] }
",
        &["18:78 `'20'`: `samples` must be an integer, not a text (expected an integer) [remove the quotes]"]),
    row(Type, "a share in percent", Task, r"  y-rate:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, success_rate: 99, rollout: {} }] }
",
        &["18:83 `99`: `success_rate` must be at most 1.0"]),
    row(Type, "a fraction where a whole number is expected", Task, r"  y-fraction:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, samples: 1.5, rollout: {} }] }
",
        &["18:78 `1.5`: `samples` must be an integer, not a number (expected an integer)"]),
    row(Type, "a number that is too large", Task, r"  y-attempts:
    type: mse-gray-offline
    retry: { attempts: 1000 }
    with: { environment: production, tag: gray }
",
        &["18:24 `1000`: `attempts` must be at most 100"]),
    row(Type, "a number of seconds without a unit", Task, r"  y-backoff:
    type: mse-gray-offline
    retry: { attempts: 3, backoff: 10 }
    with: { environment: production, tag: gray }
",
        &["18:36 `10`: `backoff` must be a text, not an integer (a duration is a number and a unit, as in `90s`, `10m` or `1h30m`)"]),
    row(Type, "`retry` as a number", Task, r"  y-retry:
    type: mse-gray-offline
    retry: 3
    with: { environment: production, tag: gray }
",
        &["18:12 `3`: `retry` must be a map, not an integer (expected a map) [write `{ attempts: 3 }`]"]),
    row(Type, "a choice that is mistyped", Task, r"  y-choice:
    type: mse-gray-offline
    on_failure: ignore
    with: { environment: production, tag: gray, on_missing: pas }
",
        &[
            "18:17 `ignore`: `on_failure` cannot be `ignore` (one of `stop`, `continue` and `hold`)",
            "19:61 `pas`: `on_missing` cannot be `pas` (did you mean `pass`?) [one of `fail` and `pass`]",
        ]),
    row(Type, "`yes` for a boolean", Task, r"  y-when:
    type: mse-gray-offline
    when: true
    with: { environment: production, tag: gray }
",
        &[r#"18:11 `true`: `when` is one expression (expected `${{ ... }}`) [write "${{ true }}"]"#]),
    row(Type, "`yes` for true", Input, "  y_yes: { type: string, required: yes }\n",
        &["6:36 `yes`: `required` must be true or false, not a text (expected true or false) [write `true` or `false`]"]),
    row(Type, "a path that does not begin with a slash", Task, r"  y-path:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, http: { path: a, as: gray } }] }
",
        &[
            "18:83 `a`: `path` cannot be `a` (a path begins with `/`)",
            "18:90 `gray`: `as` cannot be `gray` (one of `lane` and `baseline`)",
        ]),
    row(Type, "a regular expression that is none", Task, r"  y-regex:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, http: { path: /a, expect: { body_matches: 'A[' } } }] }
",
        &["18:111 `'A['`: not a regular expression (unclosed character class)"]),
    row(Type, "the reserved tag `original`", Task, r"  y-original:
    type: mse-gray-offline
    with: { environment: production, tag: original }
",
        &["18:43 `original`: `original` means the baseline and cannot be a lane's tag"]),
    row(Type, "the reserved tag `base`", Task, r"  y-base:
    type: mse-gray-offline
    with: { environment: production, tag: base }
",
        &["18:43 `base`: `base` means the baseline and cannot be a lane's tag"]),
    row(Type, "an empty tag", Task, r"  y-blank:
    type: mse-gray-offline
    with: { environment: production, tag: '' }
",
        &["18:43 `''`: an empty tag means the baseline and cannot be a lane's tag"]),
    row(Type, "a tag with a capital", Task, r"  y-capital:
    type: mse-gray-offline
    with: { environment: production, tag: Gray }
",
        &["18:43 `Gray`: `Gray` cannot be a lane's tag (use up to 20 small letters, digits and `-`, with a letter or digit at both ends)"]),
    row(Type, "a tag that is an emoji", Task, r"  y-emoji:
    type: mse-gray-offline
    with: { environment: production, tag: 🐦 }
",
        &["18:43 `🐦`: `🐦` cannot be a lane's tag (use up to 20 small letters, digits and `-`, with a letter or digit at both ends)"]),
    row(Type, "a tag of 60 characters", Task, r"  y-long:
    type: mse-gray-offline
    with: { environment: production, tag: gggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg }
",
        &["18:43 `gggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg`: `gggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg` cannot be a lane's tag (use up to 20 small letters, digits and `-`, with a letter or digit at both ends)"]),
    row(Type, "an image that is a list", Task, r"  y-image:
    type: prod-deploy
    with: { environment: production, images: { spring-a: ['a:1'] } }
",
        &["18:48 `spring-a`: the image of `spring-a` must be a text (expected `repository:tag`, or images by container)"]),
    row(Type, "an image that is empty", Task, r"  y-empty:
    type: prod-deploy
    with: { environment: production, images: { spring-a: '' } }
",
        &["18:58 `''`: an empty text is not an image (expected `repository:tag`)"]),
    row(Type, "a negative number of pods", Task, r"  y-pods:
    type: prod-deploy
    with: { environment: production, services: { spring-a: { replicas: -1 } } }
",
        &["18:72 `-1`: `replicas` must be at least 0"]),
    row(Type, "a header that only tags may carry", Task, r"  y-header:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, http: { path: /a, headers: { x-mse-tag: gray, 'a b': c } } }] }
",
        &[
            "18:98 `x-mse-tag`: `x-mse-tag` cannot be set here (`as` says as whom the gateway is asked)",
            "18:115 `'a b'`: `a b` is not the name of a header",
        ]),
    row(Type, "an input of another type than the field", Task, r"  y-input:
    type: generic-verify
    with: { environment: production, tag: '${{ inputs.keep }}', checks: [{ name: a, samples: '${{ inputs.tag }}', rollout: {} }] }
",
        &[
            "18:43 `'${{ inputs.keep }}'`: `tag` must be a text, but input `keep` is of type boolean (expected a text)",
            "18:94 `'${{ inputs.tag }}'`: `samples` must be an integer, but input `tag` is of type string (expected an integer)",
        ]),
    row(Type, "a map that came in through an alias", Task, r"  y-alias:
    type: mse-gray-offline
    retry: &y-retry { attempts: 0 }
    with: { environment: production, tag: gray }
  y-aliased:
    type: mse-gray-offline
    retry: *y-retry
    with: { environment: production, tag: gray }
",
        &[
            "18:33 `0`: `attempts` must be at least 1",
            "22:12 `*y-retry`: `attempts` must be at least 1",
        ]),
    row(Type, "a whole number that is written as a fraction", Task, r"  y-whole:
    type: generic-verify
    retry: { attempts: 3.0 }
    with: { environment: production, tag: gray, checks: [{ name: a, samples: 20.0, success_rate: 1.0, rollout: {} }] }
",
        &[
            "18:24 `3.0`: `attempts` must be an integer, not a number (expected an integer) [write `3`]",
            "19:78 `20.0`: `samples` must be an integer, not a number (expected an integer) [write `20`]",
        ]),
    row(Type, "a duration beyond counting", Task, r"  y-forever:
    type: mse-gray-offline
    timeout: 99999999999999999999s
    with: { environment: production, tag: gray, drain: 99999999999999999999s }
",
        &[
            "18:14 `99999999999999999999s`: the duration is too long to be counted",
            "19:56 `99999999999999999999s`: the duration is too long to be counted",
        ]),
    row(Type, "a choice that is null", Task, r"  y-nothing:
    type: mse-gray-offline
    on_failure:
    with: { environment: production, tag: gray }
",
        &["18:5 `on_failure`: `on_failure` must not be empty (one of `stop`, `continue` and `hold`)"]),
    row(Expression, "an input that is mistyped", Task, r"  e-input:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ inputs.tga }}' }
",
        &["19:55 `tga`: the workflow has no input `tga` (did you mean `tag`?)"]),
    row(Expression, "an input that is mistyped, inside a longer text in double quotes", Task, r#"  e-inside:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: "a-${{ inputs.tga }}-b" }
"#,
        &["19:57 `tga`: the workflow has no input `tga` (did you mean `tag`?)"]),
    row(Expression, "a variable that is mistyped", Task, r"  e-root:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ input.tag }}' }
",
        &["19:48 `input`: `input` is not known here (did you mean `inputs`?) [an expression sees `inputs`, `tasks`, `run`, `vars` and `secrets`]"]),
    row(Expression, "a task that there is not", Task, r"  e-task:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ tasks.deplo.status == 'succeeded' }}
    with: { environment: production, tag: gray }
",
        &["19:21 `deplo`: there is no task `deplo` (did you mean `deploy`?)"]),
    row(Expression, "a task with a dash, written with dots", Task, r"  e-dash:
    type: mse-gray-offline
    needs: [deploy, other-end]
    when: ${{ tasks.other-end.status == 'succeeded' }}
    with: { environment: production, tag: gray }
",
        &["19:21 `other`: there is no task `other` [a name with `-` is written tasks['other-end']]"]),
    row(Expression, "a task that need not have ended", Task, r"  e-need:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ tasks['other-end'].status == 'succeeded' }}
    with: { environment: production, tag: gray }
",
        &["19:22 `other-end`: task `other-end` need not have ended before `e-need` [add `other-end` to the needs of `e-need`]"]),
    row(Expression, "an output that a type does not have", Task, r"  e-output:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: gray, drain: '${{ tasks.deploy.outputs.image }}' }
",
        &["19:82 `image`: task `deploy` has no output `image` (did you mean `images`?) [a `mse-gray-deploy` task puts out `tag`, `objects`, `images` and `route`]"]),
    row(Expression, "a key of a task that there is not", Task, r"  e-state:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ tasks.deploy.state == 'succeeded' }}
    with: { environment: production, tag: gray }
",
        &["19:28 `state`: a task has no `state` (did you mean `status`?)"]),
    row(Expression, "a single `=`", Task, r"  e-equals:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ inputs.tag = 'gray' }}
    with: { environment: production, tag: gray }
",
        &["19:26 `=`: `=` is not expected here [to compare, write `==`]"]),
    row(Expression, "a word for an operator", Task, r"  e-and:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ inputs.keep and success() }}
    with: { environment: production, tag: gray }
",
        &["19:27 `and`: `and` is not expected here [write `&&`]"]),
    row(Expression, "an expression that ends too early", Task, r"  e-early:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ inputs.keep && }}
    with: { environment: production, tag: gray }
",
        &["19:28 `&`: the expression ends too early"]),
    row(Expression, "an expression that is not closed", Task, r"  e-open:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ inputs.tag }' }
",
        &["19:44 `${{`: an expression is not closed [write `}}` at its end; where `${{` is meant as it stands, write `$${{`]"]),
    row(Expression, "an expression that is empty", Task, r"  e-empty:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ }}' }
",
        &["19:47 ` `: the expression is empty"]),
    row(Expression, "an expression that lacks its braces", Task, r"  e-bare:
    type: mse-gray-offline
    needs: [deploy]
    when: inputs.keep == false
    with: { environment: production, tag: gray }
",
        &[r#"19:11 `inputs.keep == false`: `when` is one expression (expected `${{ ... }}`) [write "${{ inputs.keep == false }}"]"#]),
    row(Expression, "`when` with text around the expression", Task, r"  e-around:
    type: mse-gray-offline
    needs: [deploy]
    when: not ${{ inputs.keep }}
    with: { environment: production, tag: gray }
",
        &["19:11 `not ${{ inputs.keep }}`: `when` is one expression and nothing else [put everything inside one `${{ ... }}`]"]),
    row(Expression, "a function that there is not", Task, r"  e-function:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ sucess() }}
    with: { environment: production, tag: gray }
",
        &["19:15 `sucess`: there is no function `sucess` (did you mean `success`?)"]),
    row(Expression, "a function of a value that there is not", Task, r"  e-method:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ inputs.tag.startswith('g') }}
    with: { environment: production, tag: gray }
",
        &["19:26 `startswith`: there is no function `startswith` (did you mean `startsWith`?)"]),
    row(Expression, "a function of `when` in `with`", Task, r#"  e-success:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: gray, drain: '${{ success() ? "1s" : "2s" }}' }
"#,
        &["19:61 `success`: `success()` is known in `when` only [in `with`, read `tasks.NAME.status`]"]),
    row(Expression, "an argument that a function does not take", Task, r"  e-argument:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ success('deploy') }}
    with: { environment: production, tag: gray }
",
        &["19:15 `success`: `success()` takes no argument"]),
    row(Expression, "a tag that depends on an output", Task, r"  e-sealed:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ tasks.deploy.outputs.route }}' }
",
        &["19:48 `tasks`: `tag` cannot depend on what a task puts out (it says what the run claims, and must be known at submit)"]),
    row(Expression, "a variable of the settings that there is not", Task, r"  e-vars:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: gray, drain: '${{ vars.regoin }}' }
",
        &["19:66 `regoin`: the settings have no variable `regoin` (did you mean `region`?) [variables stand below `vars` in the settings]"]),
    row(Expression, "a secret where none may stand", Task, r"  e-secret:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: gray, drain: '${{ secrets.token }}' }
",
        &["19:61 `secrets`: a secret cannot stand here (only where a type sends it on, as in the headers of an http check)"]),
    row(Expression, "a secret that the settings do not have", Task, r"  e-secrets:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, http: { path: /a, headers: { authorization: '${{ secrets.tokn }}' } } }] }
",
        &["18:126 `tokn`: the settings have no secret `tokn` (did you mean `token`?) [secrets stand below `secrets` in the settings]"]),
    row(Expression, "a secret that is computed with", Task, r#"  e-computed:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: a, http: { path: /a, headers: { authorization: "${{ 'Bearer ' + secrets.token }}" } } }] }
"#,
        &["18:130 `secrets`: a secret cannot be computed with [write `${{ secrets.NAME }}` and nothing else inside the braces]"]),
    row(Expression, "a key of the run that there is not", Task, r"  e-run:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: gray, drain: '${{ run.user }}' }
",
        &["19:65 `user`: a run has no `user` [a run has `id`, `workflow`, `revision`, `submitted_at`, `actor`, `trigger`, `nominal` and `actual`]"]),
    row(Expression, "an expression in a key that takes none", Task, r"  e-type:
    type: ${{ inputs.tag }}
    timeout: ${{ inputs.tag }}
",
        &[
            "17:11 `${{ inputs.tag }}`: expressions are not evaluated here (`${{ }}` stands in a task's `when` and `with`)",
            "18:14 `${{ inputs.tag }}`: expressions are not evaluated here (`${{ }}` stands in a task's `when` and `with`)",
        ]),
    row(Expression, "an expression in `needs`", Task, r"  e-needs:
    type: mse-gray-offline
    needs: ['${{ inputs.tag }}']
    with: { environment: production, tag: gray }
",
        &["18:13 `'${{ inputs.tag }}'`: expressions are not evaluated here (`${{ }}` stands in a task's `when` and `with`)"]),
    row(Expression, "an expression in a default", Input, "  e_default: { type: string, default: '${{ vars.region }}' }\n",
        &["6:39 `'${{ vars.region }}'`: expressions are not evaluated here (`${{ }}` stands in a task's `when` and `with`)"]),
    row(Expression, "a mistake in the second line of a block", Task, r"  e-block:
    type: generic-verify
    with:
      environment: production
      tag: gray
      checks:
        - name: |
            the first line
            of ${{ inputs.tga }}
          rollout: {}
",
        &["24:27 `tga`: the workflow has no input `tga` (did you mean `tag`?)"]),
    row(Expression, "a mistake in a folded text", Task, r"  e-folded:
    type: generic-verify
    with:
      environment: production
      tag: gray
      checks:
        - name: a text that goes on
            in the next line with ${{ inputs.tga }}
          rollout: {}
",
        &["23:46 `tga`: the workflow has no input `tga` (did you mean `tag`?)"]),
    row(Expression, "a mistake after an escape", Task, r#"  e-escape:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: "a \"quote\" of ${{ inputs.tga }}", rollout: {} }] }
"#,
        &["18:93 `tga`: the workflow has no input `tga` (did you mean `tag`?)"]),
    row(Expression, "a mistake that came in through an alias", Task, r"  e-anchor:
    type: mse-gray-offline
    with: { environment: production, tag: &e-tag '${{ inputs.tga }}' }
  e-alias:
    type: mse-gray-offline
    with: { environment: production, tag: *e-tag }
",
        &[
            "18:62 `tga`: the workflow has no input `tga` (did you mean `tag`?)",
            "21:43 `*e-tag`: the workflow has no input `tga` (did you mean `tag`?)",
        ]),
    row(Expression, "brackets nested too deep", Task, r"  e-deep:
    type: mse-gray-offline
    when: ${{ (((((((((((((((((inputs.keep))))))))))))))))) }}
    with: { environment: production, tag: gray }
",
        &["18:31 `(`: brackets are nested deeper than 16"]),
    row(Expression, "a hash that cuts the expression off", Task, r"  e-hash:
    type: mse-gray-offline
    when: ${{ inputs.keep #c }}
    with: { environment: production, tag: gray }
",
        &["18:11 `${{`: an expression is not closed [` #` begins a comment: put the expression in quotes]"]),
    row(Expression, "a sum of a text and a number", Task, r"  e-sum:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ 'a' + 1 == 'a1' }}
    with: { environment: production, tag: gray }
",
        &["19:15 `'a' + 1 == 'a1'`: warning: `+` does not take string and int (it reads nothing, and fails in every run)"]),
    row(Expression, "`when` that is no boolean", Task, r"  e-bool:
    type: mse-gray-offline
    needs: [deploy]
    when: ${{ inputs.tag }}
    with: { environment: production, tag: gray }
",
        &["19:15 `inputs.tag`: `when` must be true or false, but input `tag` is of type string"]),
    row(Expression, "a text after two expressions, the second wrong", Task, r"  e-second:
    type: mse-gray-offline
    needs: [deploy]
    with: { environment: production, tag: '${{ inputs.tag }}-${{ inputs.tagg }}' }
",
        &["19:73 `tagg`: the workflow has no input `tagg` (did you mean `tag`?)"]),
    row(Expression, "a key of an expression that is not ASCII", Task, r"  e-chinese:
    type: generic-verify
    with: { environment: production, tag: gray, checks: [{ name: '灰度 ${{ inputs.标签 }}', rollout: {} }] }
",
        &["18:81 `标签`: `标签` is not expected here"]),
    row(Graph, "a task that needs itself", Task, r"  g-self:
    type: mse-gray-offline
    needs: [g-self]
    with: { environment: production, tag: gray }
",
        &["18:13 `g-self`: task `g-self` needs itself"]),
    row(Graph, "a task that needs one that there is not", Task, r"  g-unknown:
    type: mse-gray-offline
    needs: [deploy, depoly]
    with: { environment: production, tag: gray }
",
        &["18:21 `depoly`: task `g-unknown` needs `depoly`, which is not in this workflow (did you mean `deploy`?)"]),
    row(Graph, "an output of a task whose name is mistyped in `needs`, which is one mistake", Task, r"  g-read:
    type: prod-deploy
    needs: [deplyo]
    with: { environment: production, images: '${{ tasks.deploy.outputs.images }}' }
",
        &["18:13 `deplyo`: task `g-read` needs `deplyo`, which is not in this workflow (did you mean `deploy`?)"]),
    row(Graph, "two tasks that need each other", Task, r"  g-a:
    type: mse-gray-offline
    needs: [g-b]
    with: { environment: production, tag: gray }
  g-b:
    type: mse-gray-offline
    needs: [g-a]
    with: { environment: production, tag: gray }
",
        &["18:5 `needs`: tasks need each other in a circle (`g-a` needs `g-b` needs `g-a`)"]),
    row(Graph, "three tasks in a circle, and one that hangs on it", Task, r"  g-x:
    type: mse-gray-offline
    needs: [g-z]
    with: { environment: production, tag: gray }
  g-y:
    type: mse-gray-offline
    needs: [g-x]
    with: { environment: production, tag: gray }
  g-z:
    type: mse-gray-offline
    needs: [deploy, g-y]
    with: { environment: production, tag: gray }
  g-tail:
    type: mse-gray-offline
    needs: [g-z]
    with: { environment: production, tag: gray }
",
        &["18:5 `needs`: tasks need each other in a circle (`g-x` needs `g-z` needs `g-y` needs `g-x`)"]),
    row(Graph, "a task that is needed twice", Task, r"  g-twice:
    type: mse-gray-offline
    needs: [deploy, deploy]
    with: { environment: production, tag: gray }
",
        &["18:21 `deploy`: warning: task `g-twice` needs `deploy` twice"]),
    row(Graph, "a trigger that selects a task that there is not", Trigger, "  - { name: g-only, cron: 0 4 * * *, only: [deplyo] }\n",
        &["8:45 `deplyo`: there is no task `deplyo` to select (did you mean `deploy`?)"]),
    row(Graph, "a trigger that skips a task that there is not", Trigger, "  - { name: g-skip, cron: 0 4 * * *, skip: [everything] }\n",
        &["8:45 `everything`: there is no task `everything` to skip"]),
    row(Cron, "four fields", Trigger, "  - { name: c-four, cron: 30 2 * * }\n",
        &["8:27 `30 2 * *`: `30 2 * *` is not a schedule (a schedule has five fields (minute, hour, day of month, month, day of week), not 4)"]),
    row(Cron, "six fields", Trigger, "  - { name: c-six, cron: 0 30 2 * * 1 }\n",
        &["8:26 `0 30 2 * * 1`: `0 30 2 * * 1` is not a schedule (a schedule has five fields (minute, hour, day of month, month, day of week), not 6; there are no seconds and no years)"]),
    row(Cron, "a minute that there is not", Trigger, "  - { name: c-minute, cron: 61 2 * * * }\n",
        &["8:29 `61`: `61 2 * * *` is not a schedule (minute: 61 is not between 0 and 59)"]),
    row(Cron, "a weekday that there is not", Trigger, "  - { name: c-weekday, cron: 0 2 * * 8 }\n",
        &["8:38 `8`: `0 2 * * 8` is not a schedule (day of week: 8 is not between 0 and 7)"]),
    row(Cron, "a name that is no weekday", Trigger, "  - { name: c-name, cron: 0 2 * * mo }\n",
        &["8:35 `mo`: `0 2 * * mo` is not a schedule (day of week: `mo` is not a number, a name, a range or a list; did you mean `mon`?)"]),
    row(Cron, "a range that runs backwards", Trigger, "  - { name: c-range, cron: 0 2 * * fri-mon }\n",
        &["8:36 `fri-mon`: `0 2 * * fri-mon` is not a schedule (day of week: `fri-mon` runs backwards)"]),
    row(Cron, "a step of nothing", Trigger, "  - { name: c-step, cron: '*/0 2 * * *' }\n",
        &["8:28 `*/0`: `*/0 2 * * *` is not a schedule (minute: `*/0` has no valid step; a step is a number from 1)"]),
    row(Cron, "a step without a range", Trigger, "  - { name: c-posix, cron: 5/20 * * * * }\n",
        &["8:28 `5/20`: `5/20 * * * *` is not a schedule (minute: `5/20` is not POSIX; write `5-59/20`)"]),
    row(Cron, "a date that never occurs", Trigger, "  - { name: c-never, cron: 0 0 31 2 * }\n",
        &["8:28 `0 0 31 2 *`: `0 0 31 2 *` is not a schedule (this date never occurs)"]),
    row(Cron, "a nickname that there is not", Trigger, "  - { name: c-nick, cron: '@dayly' }\n",
        &["8:27 `'@dayly'`: `@dayly` is not a schedule (`@dayly` is not known: use @hourly, @daily, @weekly or @monthly)"]),
    row(Cron, "a time zone inside the schedule", Trigger, "  - { name: c-zone, cron: CRON_TZ=Asia/Shanghai 0 2 * * * }\n",
        &["8:27 `CRON_TZ=Asia/Shanghai 0 2 * * *`: `CRON_TZ=Asia/Shanghai 0 2 * * *` is not a schedule (the time zone does not belong here: use `timezone`)"]),
    row(Cron, "a Quartz question mark", Trigger, "  - { name: c-quartz, cron: 0 2 ? * 1 }\n",
        &["8:33 `?`: `0 2 ? * 1` is not a schedule (day of month: `?` is not a number, a name, a range or a list; write `*`)"]),
    row(Cron, "an empty schedule", Trigger, "  - { name: c-empty, cron: '' }\n",
        &["8:28 `''`: an empty text is not a schedule (a schedule has five fields (minute, hour, day of month, month, day of week), not 0)"]),
    row(Cron, "both day fields, which is allowed and odd", Trigger, "  - { name: c-both, cron: 0 2 13 * 5 }\n",
        &["8:27 `0 2 13 * 5`: warning: day of month and day of week are both restricted: either one is enough"]),
    row(Cron, "a time zone that is mistyped", Trigger, "  - { name: c-tz, cron: 0 2 * * *, timezone: Asia/Shangai }\n",
        &["8:46 `Asia/Shangai`: `Asia/Shangai` is not a time zone (did you mean `Asia/Shanghai`?)"]),
    row(Cron, "a time zone that is an abbreviation", Trigger, "  - { name: c-cst, cron: 0 2 * * *, timezone: CST }\n",
        &["8:47 `CST`: `CST` is not a time zone (did you mean `CET`?)"]),
    row(Cron, "a trigger without a schedule", Trigger, "  - { name: c-none, timezone: UTC }\n",
        &["8:5 `{`: item 2 of `triggers` lacks `cron` (`cron` is required here)"]),
    row(Cron, "a trigger that gives an input that there is not", Trigger, "  - { name: c-input, cron: 0 2 * * *, inputs: { tga: gray } }\n",
        &["8:49 `tga`: the workflow has no input `tga` (did you mean `tag`?)"]),
    row(Cron, "a trigger that gives an input of another type", Trigger, "  - { name: c-type, cron: 0 2 * * *, inputs: { keep: 'yes' } }\n",
        &["8:54 `'yes'`: input `keep` must be true or false, not a text"]),
    row(Cron, "two triggers of one name", Trigger, r"  - { name: c-twin, cron: 0 2 * * * }
  - { name: c-twin, cron: 0 3 * * * }
",
        &["9:13 `c-twin`: two triggers are called `c-twin` (another trigger has this name already)"]),
    row(Cron, "a trigger policy that is mistyped", Trigger, "  - { name: c-policy, cron: 0 2 * * *, policy: rejct }\n",
        &["8:48 `rejct`: `policy` cannot be `rejct` (did you mean `reject`?) [one of `queue`, `latest`, `reject`, `replace` and `allow`]"]),
    row(Cron, "a trigger's deadline without a unit", Trigger, "  - { name: c-late, cron: 0 2 * * *, start_deadline: '30' }\n",
        &["8:54 `'30'`: `start_deadline` cannot be `30` (a duration is a number and a unit, as in `90s`, `10m` or `1h30m`)"]),
    row(Cron, "a trigger that does not give a required input", Alone, r"name: release
inputs:
  image: { type: string, required: true }
triggers:
  - cron: 0 2 * * *
  - { cron: 0 3 * * *, inputs: {} }
  - { cron: 0 4 * * *, inputs: { image: 'a:1' } }
tasks:
  offline: { type: mse-gray-offline, with: { environment: production, tag: gray } }
",
        &[
            "5:5 `cron`: the trigger does not give input `image`, which is required (`image` (string) is missing)",
            "6:24 `inputs`: the trigger does not give input `image`, which is required (`image` (string) is missing)",
        ]),
    row(AcrossFiles, "an environment that is mistyped", Task, r"  a-env:
    type: mse-gray-offline
    with: { environment: prodction, tag: gray }
",
        &["18:26 `prodction`: there is no environment `prodction` (did you mean `production`?)"]),
    row(Type, "an edited manifest that is not alone", Task, r"  t-edited:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, services: { spring-a: { manifest: gray/a.yaml, replicas: 2 } } }
",
        &["18:96 `replicas`: `replicas` beside `manifest` (an edited manifest says all by itself: keep one of the two)"]),
    row(AcrossFiles, "an environment that there is not", Task, r"  a-none:
    type: mse-gray-offline
    with: { environment: qa, tag: gray }
",
        &["18:26 `qa`: there is no environment `qa`: there is `production` and `staging`"]),
    row(AcrossFiles, "an environment that does not allow the workflow", Task, r"  a-staging:
    type: mse-gray-offline
    with: { environment: staging, tag: gray }
",
        &["18:26 `staging`: environment `staging` does not allow the workflow `release` [add it to `allow.workflows` in the file of environment `staging`]"]),
    row(AcrossFiles, "a service that is mistyped, in images", Task, r"  a-service:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, images: { sprng-a: 'a:1' } }
",
        &["18:59 `sprng-a`: environment `production` has no service `sprng-a` (did you mean `spring-a`?)"]),
    row(AcrossFiles, "a service that is mistyped, in services", Task, r"  a-services:
    type: prod-deploy
    with: { environment: production, services: { spring-x: {} } }
",
        &["18:50 `spring-x`: environment `production` has no service `spring-x` (did you mean `spring-a`?)"]),
    row(AcrossFiles, "a service that there is not, in order", Task, r"  a-order:
    type: prod-deploy
    with: { environment: production, images: { spring-a: 'a:1' }, order: [spring-a, billing] }
",
        &["18:85 `billing`: environment `production` has no service `billing`: it has `nacos`, `spring-a`, `spring-b` and `spring-c`"]),
    row(AcrossFiles, "a service that there is not, taken down", Task, r"  a-offline:
    type: mse-gray-offline
    with: { environment: production, tag: gray, services: [spring-d] }
",
        &["18:60 `spring-d`: environment `production` has no service `spring-d` (did you mean `spring-a`?)"]),
    row(AcrossFiles, "an entry at a service that there is not", Task, r"  a-entry:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, images: { spring-a: 'a:1' }, entry: { service: sprig-a, weight: 5 } }
",
        &["18:96 `sprig-a`: environment `production` has no service `sprig-a` (did you mean `spring-a`?)"]),
    row(AcrossFiles, "an entry at a service without an Ingress", Task, r"  a-ingress:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, images: { spring-b: 'b:1' }, entry: { service: spring-b, weight: 5 } }
",
        &["18:96 `spring-b`: service `spring-b` has no Ingress (the entry is the service whose Ingress lets requests in)"]),
    row(AcrossFiles, "a container that a service does not have", Task, r"  a-container:
    type: prod-deploy
    with: { environment: production, images: { spring-a: { spring-cloud-x: 'a:1' } } }
",
        &["18:60 `spring-cloud-x`: service `spring-a` has no container `spring-cloud-x` (did you mean `spring-cloud-a`?)"]),
    row(AcrossFiles, "the same below services", Task, r"  a-containers:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, services: { spring-a: { images: { app: 'a:1' } } } }
",
        &["18:83 `app`: service `spring-a` has no container `app` (it has `spring-cloud-a`)"]),
    row(AcrossFiles, "a lane copy of a service that is shared", Task, r"  a-shared:
    type: mse-gray-deploy
    with: { environment: production, tag: gray, images: { nacos: 'nacos:2' } }
",
        &["18:59 `nacos`: service `nacos` takes no part in lanes (its `gray` is false in environment `production`)"]),
];
