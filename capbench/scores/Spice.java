import edu.anu.spice.Evaluation;
import edu.anu.spice.SceneGraph;
import edu.anu.spice.SpiceParser;
import edu.anu.spice.TupleSet;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * SPICE of each image: a line with the caption and its references, between tabs, is answered by a line with the F.
 *
 * <p>Source: edu.anu.spice.SpiceScorer of spice-1.0.jar, whose results pass through the JavaScript that Java lost with 15.
 */
public class Spice {
    private static final int MOST_THREADS = 8; // each holds a parse in memory

    public static void main(String[] arguments) throws IOException {
        PrintStream answers = System.out;
        System.setOut(System.err); // for what the libraries say of themselves
        List<String> captions = new ArrayList<>();
        List<String> references = new ArrayList<>();
        List<Integer> counts = new ArrayList<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            List<String> fields = Arrays.asList(line.split("\t"));
            captions.add(fields.get(0));
            references.addAll(fields.subList(1, fields.size()));
            counts.add(fields.size() - 1);
        }
        int threads = Math.min(MOST_THREADS, Runtime.getRuntime().availableProcessors());
        SpiceParser parser = new SpiceParser(null, threads, true);
        List<SceneGraph> expected = parser.parseCaptions(references, counts);
        List<SceneGraph> said = parser.parseCaptions(captions);
        for (int i = 0; i < said.size(); i++) {
            TupleSet caption = new TupleSet(said.get(i));
            answers.println(new Evaluation(caption, new TupleSet(expected.get(i)), false, true).f);
        }
        System.exit(0); // whatever threads the libraries leave
    }
}
