def write_reports(results, runs, failures, output_dir):
    return []
